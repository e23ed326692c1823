"""Values that a function gets as environment variables and that are shown nowhere.

Values travel from here to the server once, which keeps them encrypted; what an app's declarations carry are references. A container gets the values when it
starts.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from squall.model.errors import InvalidError
from squall.sdk.context import is_local
from squall.sdk.refusals import NotYet
from squall.sdk.storage.dotenv import find, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from squall.sdk.client.client import Client

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_LENGTH_MAX, _VALUE_LENGTH_MAX = 16_384, 32_768  # as in Modal, so that programs keep working there


class Secret:
    """Environment variables for containers. Printing one shows names only."""

    objects: ClassVar["Any"]
    get_dashboard_url = NotYet()

    def __init__(self, values: Mapping[str, str], *, name: str = "", environment: str | None = None, required: Sequence[str] = ()) -> None:
        self._inline = dict(values)
        self._name, self._environment, self._required = name, environment, tuple(required)
        self._client: Client | None = None
        self._id = ""

    @classmethod
    def from_name(cls, name: str, *, environment_name: str | None = None, required_keys: Sequence[str] = (), client: "Client | None" = None) -> "Secret":
        """A secret that the server keeps: ``squall secret create NAME``. It is looked for when the app starts.

        Args:
            required_keys: the app does not start when one of them is missing.

        Raises:
            InvalidError: `name` is no text.
        """
        if not isinstance(name, str) or not name:
            raise InvalidError(f"name={name!r} is not the name of a secret")
        if isinstance(required_keys, str):
            raise InvalidError(f'required_keys={required_keys!r} is not a list; write required_keys=["{required_keys}"]')
        made = cls({}, name=name, environment=environment_name, required=required_keys)
        made._client = client
        return made

    @classmethod
    def from_dict(cls, env_dict: Mapping[str, str | None] = {}) -> "Secret":
        """From names and values; a value of None leaves its name out.

        Raises:
            InvalidError: something else than text, or a name that can't be an environment variable.
        """
        return cls(check_variables("env_dict", env_dict))

    @classmethod
    def from_local_environ(cls, env_keys: Sequence[str]) -> "Secret":
        """Copy variables of this process. Inside a container it is empty: the values are already there.

        Raises:
            InvalidError: a variable is not set here.
        """
        if not is_local():
            return cls({})
        if missing := [key for key in env_keys if key not in os.environ]:
            raise InvalidError(f"env_keys: not set in this environment: {', '.join(missing)}")
        return cls.from_dict({key: os.environ[key] for key in env_keys})

    @classmethod
    def from_dotenv(cls, path: str | Path | None = None, *, filename: str = ".env", client: "Client | None" = None) -> "Secret":
        """From a ``.env`` file: in the directory of `path` (by default the current one) or the nearest above it. Empty inside a container.

        Raises:
            InvalidError: there is none, or a line of it can't be read.
        """
        if not is_local():
            return cls({})
        start = Path.cwd() if path is None else Path(path)
        found = find(start, filename)
        if found is None:
            raise InvalidError(f"there is no {filename} in {start if start.is_dir() else start.parent} or above it")
        made = cls(check_variables(str(found), parse(found.read_text(), str(found))))
        made._client = client
        return made

    @classmethod
    def lookup(cls, name: str, *, environment_name: str | None = None, client: "Client | None" = None) -> "Secret":
        """Old spelling of `from_name`."""
        import warnings

        from squall.model.errors import DeprecationError

        warnings.warn("Secret.lookup is the old spelling of Secret.from_name", DeprecationError, stacklevel=2)
        return cls.from_name(name, environment_name=environment_name, client=client)

    @property
    def name(self) -> str | None:
        """Of a secret that the server keeps."""
        return self._name or None

    @property
    def client(self) -> "Client":
        from squall.sdk.client.client import Client

        return self._client or Client.default()

    @property
    def hydrate(self) -> Any:
        """``hydrate()``: look it up now, with its `required_keys`; the secret itself. Raises NotFoundError, InvalidError."""
        from squall.sdk.storage.secret_manager import hydrate_of

        return hydrate_of(self)

    @property
    def is_hydrated(self) -> bool:
        """Whether its id is known."""
        return bool(self._id)

    @property
    def object_id(self) -> str:
        """Its ``st-`` id.

        Raises:
            InvalidError: not known before `hydrate()`.
        """
        if not self._id:
            raise InvalidError(f"{self!r} was not looked up yet; call hydrate() to know its id")
        return self._id

    @property
    def info(self) -> Any:
        """``info()``: name, times; never values. Raises NotFoundError."""
        from squall.sdk.storage.secret_manager import info_of

        return info_of(self)

    @property
    def update(self) -> Any:
        """``update({...})``: merge variables into a named secret. Raises NotFoundError."""
        from squall.sdk.storage.secret_manager import update_of

        return update_of(self)

    def __repr__(self) -> str:
        return f"<Secret {self._name or ', '.join(sorted(self._inline)) or 'empty'}>"

    def __reduce__(self) -> Any:
        # A function that is sent as a pickle may mention its secrets; their values stay here.
        return _unpickled, (self._name, self._environment, self._required)


def _unpickled(name: str, environment: str | None, required: Sequence[str]) -> Secret:
    return Secret({}, name=name, environment=environment, required=required)


def references(client: "Client | None", secrets: Iterable[Secret], environment: str) -> tuple[str, ...]:
    """How a function's spec names these secrets: by environment and name, or by the id under which the server has their values now.

    Raises:
        NotFoundError, InvalidError: a named one is not there, or lacks a required key.
    """
    from squall.sdk.client.client import Client, check_server
    from squall.wire.messages import Answer
    from squall.wire.state import LOOK_UP, SECRET, Opened, OpenObject, PutSecret

    found = []
    for secret in secrets:
        if not secret._name and not secret._inline:
            continue
        check_server(repr(secret), secret._client, client)
        client = client or Client.default()
        answer: Answer
        if secret._name:
            answer = client.request(OpenObject(SECRET, secret._name, secret._environment or environment, LOOK_UP, "", secret._required))
            assert isinstance(answer, Opened)
            found.append(f"{answer.environment}/{answer.name}")
        else:
            answer = client.request(PutSecret(secret._inline, "", environment))
            assert isinstance(answer, Opened)
            found.append(answer.id)
    return tuple(found)


def check_variables(parameter: str, variables: object) -> dict[str, str]:
    """`variables` without those that are None.

    Raises:
        InvalidError: naming `parameter` and the wrong key; never showing a value.
    """
    if not isinstance(variables, Mapping):
        raise InvalidError(f"{parameter} is not a dict of names and values but {type(variables).__name__}")
    checked: dict[str, str] = {}
    for key, value in variables.items():
        if not isinstance(key, str) or len(key) > _KEY_LENGTH_MAX or _KEY.fullmatch(key) is None:
            raise InvalidError(f"{parameter}: {key!r} can't be an environment variable (letters, digits and _, not starting with a digit)")
        if value is None:
            continue
        if not isinstance(value, str):
            raise InvalidError(f'{parameter}["{key}"] is {type(value).__name__}, not text')
        if len(value) > _VALUE_LENGTH_MAX or "\0" in value:
            raise InvalidError(f'{parameter}["{key}"] is longer than {_VALUE_LENGTH_MAX} characters or holds a NUL')
        checked[key] = value
    return checked


class _Objects:
    """``Secret.objects``; what it needs is loaded when it is used."""

    def __getattr__(self, name: str) -> Any:
        from squall.sdk.storage.secret_manager import SecretManager

        return getattr(SecretManager(), name)


Secret.objects = _Objects()
