"""Secrets: variables that lie encrypted in the store and are decrypted only for a container that starts.

Values are encrypted with AES-256-GCM, each with a nonce of its own and bound to its secret's id, so that one can't be put in another's place. The key is a file
that only the server's user can read, or comes from SQUALL_SECRETS_KEY.
"""

import base64
import binascii
import contextlib
import hmac
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from squall.control.objects.named_objects import PREFIXES, Names, check_name, new_id
from squall.model.errors import AlreadyExistsError, ConflictError, DataLossError, InvalidError
from squall.store.objects import ObjectRow
from squall.wire.state import ENSURE, LOOK_UP, MERGE, REFUSE, SECRET

KEY_VARIABLE = "SQUALL_SECRETS_KEY"
KEY_BYTES, NONCE_BYTES = 32, 12
#: First byte of a ciphertext: how it was made.
FORMAT = b"\x01"
#: The reference's limits.
KEY_LENGTH_MAX, VALUE_LENGTH_MAX = 16_384, 32_768

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: `used_at` is kept this coarse, so that starting many containers writes little.
_USED_S = 60.0


class Keys:
    """The encryption key. While a rotation is under way there are two: the file and ``.new`` beside it."""

    def __init__(self, path: Path) -> None:
        self._path, self._new = path, path.with_name(f"{path.name}.new")
        self._given = os.environ.get(KEY_VARIABLE)

    def current(self) -> bytes:
        """The key that new values are encrypted with; made at first use.

        Raises:
            InvalidError: SQUALL_SECRETS_KEY or the file is not a key.
        """
        if self._given is not None:
            return _parse(self._given, KEY_VARIABLE)
        if not self._path.exists():
            _write_key(self._path)
        return _parse(self._path.read_text(), str(self._path))

    def all(self) -> list[bytes]:
        """Keys that a value may have been encrypted with."""
        keys = [self.current()]
        if self._given is None and self._new.exists():
            keys.append(_parse(self._new.read_text(), str(self._new)))
        return keys

    def begin_rotation(self) -> bytes:
        """The next key, on disk.

        Raises:
            ConflictError: the key comes from the environment.
        """
        if self._given is not None:
            raise ConflictError(f"the key comes from {KEY_VARIABLE}; start the server without it once, with the old key in {self._path}, to rotate it here")
        self.current()
        if not self._new.exists():
            _write_key(self._new)
        return _parse(self._new.read_text(), str(self._new))

    def end_rotation(self) -> None:
        """From now on the new key is the key."""
        os.replace(self._new, self._path)

    def __str__(self) -> str:
        return KEY_VARIABLE if self._given is not None else str(self._path)


def _write_key(path: Path) -> None:
    with contextlib.suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).decode() + "\n")
        file.flush()
        os.fsync(file.fileno())


def _parse(text: str, where: str) -> bytes:
    try:
        key = base64.urlsafe_b64decode(text.strip())
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidError(f"{where} holds no key: it has to be {KEY_BYTES} random bytes in URL-safe base64")
    return key


class Secrets:
    """All secrets of one server. Values leave it only by `resolve`."""

    def __init__(self, names: Names, keys: Keys) -> None:
        self._names, self._store, self._keys = names, names.store, keys

    async def put(self, name: str, environment: str, values: Mapping[str, str], mode: int, drop: Sequence[str] = ()) -> tuple[ObjectRow, tuple[str, ...]]:
        """Store values; returns the secret and its keys. Without a name: an anonymous one, the same for the same values.

        Raises:
            AlreadyExistsError: with REFUSE, the name is taken.
            NotFoundError: with MERGE, there is no such secret.
            InvalidError: a key or value that can't be an environment variable's.
        """
        check_values(values)
        if not name:
            return await self._put_anonymous(environment, values), tuple(values)
        check_name(SECRET, name)
        row = await self._store.object(SECRET, environment, name)
        if row is None:
            if mode == MERGE:
                await self._names.open(SECRET, environment, name, LOOK_UP)  # says that it is missing
            object_id = new_id(SECRET)
            row, made = await self._names.open(SECRET, environment, name, ENSURE, self._seal(object_id, values), object_id)
            if made:
                return row, tuple(values)
        if mode == REFUSE:
            raise AlreadyExistsError(f"there is a secret {name!r} in environment {environment!r} already; squall secret set changes it, --force replaces it")
        if mode == MERGE:
            values = {key: value for key, value in {**self._unseal(row), **values}.items() if key not in drop}
        await self._store.set_object(row.id, data=self._seal(row.id, values))
        return row, tuple(values)

    def anonymous_id(self, values: Mapping[str, str]) -> str:
        """The id that an anonymous secret with these values has."""
        content = msgspec.msgpack.encode(sorted(values.items()))
        # Keyed, so that who reads the store can't try out guesses at the values.
        digest = hmac.digest(hmac.digest(self._keys.current(), b"anonymous secrets", "sha256"), content, "sha256").hex()
        return f"{PREFIXES[SECRET]}-{digest[:32]}"

    async def _put_anonymous(self, environment: str, values: Mapping[str, str]) -> ObjectRow:
        object_id = self.anonymous_id(values)
        now = time.time()
        row = await self._store.create_object(ObjectRow(object_id, SECRET, environment, None, now, self._seal(object_id, values), now))
        if row.used_at is None or now - row.used_at > _USED_S:
            await self._store.set_object(object_id, used_at=now)
        return row

    async def find(self, name: str, environment: str, required: Sequence[str] = ()) -> tuple[ObjectRow, tuple[str, ...]]:
        """The named secret and its keys.

        Raises:
            NotFoundError: there is none.
            InvalidError: it lacks a required key.
        """
        row, _ = await self._names.open(SECRET, environment, name, LOOK_UP)
        keys = tuple(self._unseal(row))
        if lacking := [key for key in required if key not in keys]:
            raise InvalidError(f"the secret {name!r} has no {', '.join(lacking)}; add it with  squall secret set {name} {lacking[0]}")
        return row, keys

    async def resolve(self, references: Sequence[str]) -> dict[str, str]:
        """The variables of these secrets, later ones winning. A reference is an ``st-`` id, or ``ENVIRONMENT/NAME``.

        Raises:
            NotFoundError, DataLossError: one was deleted, or can't be decrypted.
        """
        values: dict[str, str] = {}
        now = time.time()
        for reference in references:
            environment, slash, name = reference.partition("/")
            if slash:
                row, _ = await self._names.open(SECRET, environment, name, LOOK_UP)
            else:
                row = await self._names.by_id(SECRET, reference)
            values.update(self._unseal(row))
            if row.used_at is None or now - row.used_at > _USED_S:
                await self._store.set_object(row.id, used_at=now)
        return values

    async def check(self, references: Sequence[str]) -> None:
        """
        Raises:
            NotFoundError, DataLossError: `resolve` would fail.
        """
        await self.resolve(references)

    async def rotate(self) -> int:
        """Encrypt everything with a new key, all or nothing; how many secrets that were. Killed half-way, it leaves both keys, and every value readable.

        Raises:
            ConflictError: the key comes from the environment, or secrets were written meanwhile.
        """
        new = self._keys.begin_rotation()
        for _ in range(5):
            rows = await self._store.objects(SECRET)
            if await self._store.set_objects([(row.id, row.data, _seal(new, row.id, self._unseal(row))) for row in rows]):
                self._keys.end_rotation()
                return len(rows)
        raise ConflictError("secrets are being written; rotate the key again when they are not")

    def _seal(self, object_id: str, values: Mapping[str, str]) -> bytes:
        return _seal(self._keys.current(), object_id, values)

    def _unseal(self, row: ObjectRow) -> dict[str, str]:
        for key in self._keys.all():
            with contextlib.suppress(InvalidTag):
                plain = AESGCM(key).decrypt(row.data[1 : 1 + NONCE_BYTES], row.data[1 + NONCE_BYTES :], row.id.encode())
                return msgspec.msgpack.decode(plain, type=dict[str, str])
        what = f"the secret {row.name!r}" if row.name else "an anonymous secret"
        raise DataLossError(f"{what} can't be decrypted: the key in {self._keys} is not the one that it was encrypted with")


def _seal(key: bytes, object_id: str, values: Mapping[str, str]) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return FORMAT + nonce + AESGCM(key).encrypt(nonce, msgspec.msgpack.encode(dict(values)), object_id.encode())


def check_values(values: Mapping[str, str]) -> None:
    """
    Raises:
        InvalidError: naming the key; never showing a value.
    """
    for key, value in values.items():
        if len(key) > KEY_LENGTH_MAX or _VARIABLE.fullmatch(key) is None:
            raise InvalidError(f"{key[:80]!r} can't be an environment variable (letters, digits and _, not starting with a digit)")
        if len(value) > VALUE_LENGTH_MAX or "\0" in value:
            raise InvalidError(f"the value of {key} is longer than {VALUE_LENGTH_MAX} characters or holds a NUL")
