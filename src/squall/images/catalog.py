"""What was built here: images with their recipes, the names they were published under, and the last build that failed."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from squall.images.layers import LayerInfo, LayerStore
from squall.model.errors import InvalidError, NotFoundError
from squall.model.ids import LayerKey
from squall.model.specs import OF_ENVIRONMENT, ImageSpec, image_name

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?")


class ImageRecord(msgspec.Struct, frozen=True):
    """An image that was built here: its layers, lowest first, the titles of its steps, and the recipe that it came from."""

    id: str
    layers: tuple[str, ...]
    steps: tuple[str, ...]
    built_at: float = 0.0  #: Unix time in seconds
    spec: ImageSpec | None = None
    seconds: float = 0.0  #: that the last build took
    env: dict[str, str] = {}
    workdir: str = "/root"
    python: str = ""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    keys: dict[int, str] = {}  #: number of a step -> the layer that it made


class Failure(msgspec.Struct, frozen=True):
    """A build that failed: the layers that were there, and the step that was not made."""

    id: str
    layers: tuple[str, ...]
    key: str  #: of the layer that was not made
    step: int
    title: str
    cause: str
    env: dict[str, str]
    workdir: str
    failed_at: float


class Catalog:
    """Records in a directory, one file each. Any number of processes may share it."""

    def __init__(self, root: Path, layers: LayerStore) -> None:
        self._root, self._layers = root, layers
        root.mkdir(parents=True, exist_ok=True)

    def save(self, record: ImageRecord) -> None:
        """Keep a record; the file's time says when the image was last asked for."""
        self._write(self._root / f"{record.id}.json", msgspec.json.encode(record))
        (self._root / f"failed-{record.id}.json").unlink(missing_ok=True)

    def used(self, image: str) -> None:
        """It was asked for now."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._root / f"{image}.json")

    def last_used(self, image: str) -> float:
        """Unix time in seconds; 0 for one that is not known."""
        try:
            return (self._root / f"{image}.json").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def fail(self, failure: Failure) -> None:
        """Keep where a build stopped."""
        self._write(self._root / f"failed-{failure.id}.json", msgspec.json.encode(failure))

    def failure(self, image: str) -> Failure | None:
        """The last build of an image, if it failed."""
        try:
            return msgspec.json.decode((self._root / f"failed-{image}.json").read_bytes(), type=Failure)
        except FileNotFoundError:
            return None

    def forget_failure(self, image: str) -> None:
        (self._root / f"failed-{image}.json").unlink(missing_ok=True)

    def all(self) -> tuple[ImageRecord, ...]:
        """Images whose layers are all there still, the latest first."""
        found = (self._read(path) for path in self._root.glob("im-*.json"))
        whole = (record for record in found if record is not None and all(self._layers.present(LayerKey(key)) for key in record.layers))
        return tuple(sorted(whole, key=lambda record: (-record.built_at, record.id)))

    def failures(self) -> tuple[Failure, ...]:
        names = sorted(path.name for path in self._root.glob("failed-im-*.json"))
        return tuple(failure for name in names if (failure := self.failure(name.removeprefix("failed-").removesuffix(".json"))) is not None)

    def record(self, image: str) -> ImageRecord:
        """The record of an id, of the beginning of one, or of a published name.

        Raises:
            NotFoundError: there is none, or its layers were removed.
            InvalidError: several begin so.
        """
        image = self.names().get(_tagged(image.removeprefix(f"main{OF_ENVIRONMENT}")), image) if not image.startswith("im-") else image
        record = self._read(self._root / f"{image}.json") if re.fullmatch(r"im-[0-9a-f]+", image) else None
        if record is None:
            ids = [path.stem for path in self._root.glob("im-*.json") if path.stem.startswith(image)] if re.fullmatch(r"im-[0-9a-f]{2,}", image) else []
            if len(ids) > 1:
                raise InvalidError(f"{image!r} is the beginning of {len(ids)} images: {', '.join(sorted(ids)[:4])} ...; write a longer one")
            record = self._read(self._root / f"{ids[0]}.json") if ids else None
        if record is None:
            raise NotFoundError(f"there is no image {image!r}; squall image list shows what there is")
        return record

    def recipe(self, kind: str, image: str) -> ImageSpec:
        """The recipe of an image that a recipe begins with, for `expand`.

        Raises:
            NotFoundError: there is no such image.
        """
        record = self.record(image)
        if record.spec is None:
            raise NotFoundError(f"image {image} was built by an older version, which kept no recipe; build it again")
        return record.spec

    def pins(self, spec: ImageSpec) -> dict[int, str]:
        """Layers of the image that a recipe begins with, by step, for `plan`: a forced step of it is not another one each time it is named.

        Raises:
            NotFoundError: there is no such image.
        """
        first = spec.steps[0] if spec.steps else None
        return self.record(str(first.args.get("image", ""))).keys if first is not None and first.kind in ("from_id", "from_name") else {}

    def forced(self) -> dict[str, str]:
        """For layers that were forced: the key that they would have had -> what makes theirs another one."""
        try:
            found: dict[str, str] = msgspec.json.decode((self._root / "forced.json").read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        return found

    def force(self, nonces: Mapping[str, str]) -> None:
        """Keep what the last forced builds made of their keys, so that a restarted server knows."""
        if nonces:
            with self._locked():
                self._write(self._root / "forced.json", msgspec.json.encode({**self.forced(), **nonces}))

    def names(self) -> dict[str, str]:
        """Published names, each with its environment (`image_name`) and its tag -> image."""
        try:
            found: dict[str, str] = msgspec.json.decode((self._root / "names.json").read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        return found

    def publish(self, name: str, image: str | None, environment: str = "main") -> str:
        """Let `name` (``name`` or ``name:tag``) mean the image in an environment from now on; None takes the name away. Returns it as it is kept, with its tag.

        Raises:
            InvalidError: it can't be a name.
            NotFoundError: no such image, or name.
        """
        if _NAME.fullmatch(name) is None or name.startswith("im-"):
            raise InvalidError(f"{name!r} can't be the name of an image: lower-case letters, digits, '.', '_', '-' and '/', and a tag after ':'")
        tagged = _tagged(image_name(name, environment))
        with self._locked():
            names = self.names()
            if image is not None:
                names[tagged] = self.record(image).id
            elif names.pop(tagged, None) is None:
                raise NotFoundError(f"no image is published as {tagged}")
            self._write(self._root / "names.json", msgspec.json.encode(names))
        return tagged

    def forget_environment(self, environment: str) -> None:
        """Take the names of an environment away. The images stay until they are pruned."""
        with self._locked():
            names = {name: target for name, target in self.names().items() if not name.startswith(f"{environment}{OF_ENVIRONMENT}")}
            self._write(self._root / "names.json", msgspec.json.encode(names))

    def inspect(self, image: str) -> tuple[LayerInfo, ...]:
        """The layers of an image, lowest first.

        Raises:
            NotFoundError: no such image.
        """
        return tuple(info for key in self.record(image).layers if (info := self._layers.info(LayerKey(key))))

    def forget(self, image: str) -> None:
        """Remove the record, and names that lead to it."""
        with self._locked():
            names = {name: target for name, target in self.names().items() if target != image}
            self._write(self._root / "names.json", msgspec.json.encode(names))
            (self._root / f"{image}.json").unlink(missing_ok=True)

    def _read(self, path: Path) -> ImageRecord | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=ImageRecord)
        except FileNotFoundError:
            return None

    def _write(self, place: Path, data: bytes) -> None:
        draft = place.with_suffix(f".{os.getpid()}.tmp")
        draft.write_bytes(data)
        os.replace(draft, place)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _tagged(name: str) -> str:
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
