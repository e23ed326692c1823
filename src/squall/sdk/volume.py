"""Volume: a directory that containers share and that outlives them."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, ClassVar, Self

from squall.model.errors import AlreadyExistsError, InvalidError, NotFoundError, UnsupportedError
from squall.model.specs import VolumeMount
from squall.sdk.client import Client
from squall.sdk.dual import Dual
from squall.sdk.objects import EphemeralMethod, Manager, StoredObject, environment_of
from squall.sdk.twins import Ask, Give, Stream, Talk, Twin, static, talk, talk_aio
from squall.wire.state import Chunk, DropObject, Entries, Entry, NewFile, RenameObject, VolumeDo, VolumeList, VolumeRead, VolumeUpload, VolumeWrite

#: Files up to this size travel whole, many in one message of at most `BATCH_BYTES` and `BATCH_FILES`.
SMALL_BYTES, BATCH_BYTES, BATCH_FILES = 1 << 20, 4 << 20, 1_000
#: Larger ones in parts of this size.
PART_BYTES = 4 << 20

#: Where a volume can't be mounted: what a container needs itself.
_TAKEN = ("/", "/proc", "/sys", "/dev", "/.squall", "/root", "/etc", "/usr", "/bin", "/lib", "/sbin", "/lib64", "/tmp")


class FileEntryType(IntEnum):
    """What something in a volume is."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    OTHER = 4


_TYPES = {"file": FileEntryType.FILE, "dir": FileEntryType.DIRECTORY, "link": FileEntryType.SYMLINK}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Something in a volume. `path` is relative to its root, `mtime` Unix seconds, `size` bytes."""

    path: str
    type: FileEntryType
    mtime: int
    size: int


class PathNotFoundError(NotFoundError, FileNotFoundError):
    """No such path in the volume. Also the builtin's, because programs expect either."""


class PathExistsError(AlreadyExistsError, FileExistsError):
    """Something is at this path of the volume already."""


class Volume(StoredObject):
    """Files that outlive containers: mount it with ``@app.function(volumes={"/data": volume})``.

    On one machine it is one directory: what a container writes is seen by every other at once. `commit` brings it to the disk; `reload` does nothing there.
    """

    _kind: ClassVar[str] = "volume"
    _prefix: ClassVar[str] = "vo"
    _read_only: bool = False
    objects: ClassVar["Manager[Volume]"]
    ephemeral = EphemeralMethod()

    @classmethod
    def from_name(
        cls, name: str, *, environment_name: str | None = None, create_if_missing: bool = False, version: int | None = None, create_options: Any = None,
        client: Client | None = None,
    ) -> Self:  # fmt: skip
        """The volume of this name; see `StoredObject.from_name`. `version` and `create_options` are accepted and mean nothing here."""
        return super().from_name(name, environment_name=environment_name, create_if_missing=create_if_missing, client=client)

    def with_mount_options(self, *, read_only: bool | None = None, sub_path: str | PurePosixPath | None = None) -> Self:
        """The same volume, mounted otherwise."""
        if sub_path is not None:
            raise UnsupportedError(f"sub_path={str(sub_path)!r} of Volume.with_mount_options is not supported yet")
        made = self._make(name=self._name, environment=self._environment, create=self._create, object_id=self._id, client=self._client)
        made._read_only = self._read_only if read_only is None else read_only
        return made

    def read_only(self) -> Self:
        """Old spelling of ``with_mount_options(read_only=True)``."""
        return self.with_mount_options(read_only=True)

    def _state(self) -> dict[str, Any]:
        return {"_read_only": True} if self._read_only else {}

    # of a container's own mount

    @Twin
    def commit(self) -> Talk[None]:
        """What was written until now is on the disk when this returns."""
        yield VolumeDo((yield from self._find()), "commit")

    @Twin
    def reload(self) -> Talk[None]:
        """See what others wrote. On one machine that is so already."""
        yield VolumeDo((yield from self._find()), "reload")

    # files from outside

    @Stream
    def iterdir(self, path: str, *, recursive: bool = True) -> Talk[None]:
        """Entries below `path`, or the file at `path`.

        Raises:
            NotFoundError: (also a FileNotFoundError) nothing is there.
        """
        yield Give(_entry(entry) for entry in (yield from self._list(path, recursive)))

    @Twin
    def listdir(self, path: str, *, recursive: bool = False) -> Talk[list[FileEntry]]:
        """`iterdir` as a list, by default without what lies deeper."""
        return [_entry(entry) for entry in (yield from self._list(path, recursive))]

    def _list(self, path: str, recursive: bool) -> Talk[list[Entry]]:
        found: list[Entry] = []

        def take(event: Any) -> None:
            if isinstance(event, Entries):
                found.extend(event.entries)

        volume = yield from self._find()
        with _as_builtin():
            yield Ask(VolumeList(volume, _text(path), recursive), take)
        return found

    @Stream
    def read_file(self, path: str) -> Talk[None]:
        """The content of a file, in pieces.

        Raises:
            NotFoundError: (also a FileNotFoundError) no such file.
            ConflictError: it was changed while it was read.
        """
        volume = yield from self._find()
        version, offset = "", 0
        while True:
            with _as_builtin():
                chunk: Chunk = yield VolumeRead(volume, _text(path), offset, PART_BYTES, version)
            version = chunk.version
            offset += len(chunk.data)
            if chunk.data:
                yield Give((chunk.data,))
            if offset >= chunk.size or not chunk.data:
                return

    @Twin
    def read_file_into_fileobj(self, path: str, fileobj: IO[bytes], progress_cb: Callable[..., Any] | None = None) -> Talk[int]:
        """Write a file's content into `fileobj`; how many bytes."""
        volume = yield from self._find()
        version, offset = "", 0
        while True:
            with _as_builtin():
                chunk: Chunk = yield VolumeRead(volume, _text(path), offset, PART_BYTES, version)
            version = chunk.version
            offset += len(chunk.data)
            fileobj.write(chunk.data)
            if offset >= chunk.size or not chunk.data:
                return offset

    @Twin
    def copy_files(self, src_paths: Sequence[str], dst_path: str, recursive: bool = False) -> Talk[None]:
        """Copy within the volume, as ``cp`` does."""
        with _as_builtin():
            yield VolumeDo((yield from self._find()), "copy", tuple(_text(path) for path in src_paths), _text(dst_path), recursive)

    @Twin
    def remove_file(self, path: str, recursive: bool = False) -> Talk[None]:
        """Delete a file; a directory with everything in it if `recursive`."""
        with _as_builtin():
            yield VolumeDo((yield from self._find()), "remove", (_text(path),), "", recursive)

    @property
    def batch_upload(self) -> Dual[..., "VolumeUploadBatch", "VolumeUploadBatch"]:
        """``with volume.batch_upload() as batch: batch.put_file(...)`` uploads at the end of the block; ``async with`` does too.

        `force`: write over what is there; without it a path that is taken is refused before anything is written.
        """

        def make(force: bool = False) -> VolumeUploadBatch:
            return VolumeUploadBatch(self, force)

        return Dual(make, make)

    @static
    def rename(old_name: str, new_name: str, *, client: Client | None = None, environment_name: str | None = None) -> Talk[None]:
        """Give a volume another name. Apps that run keep it."""
        yield RenameObject("volume", old_name, new_name, environment_of(environment_name))

    @static
    def delete(name: str, *, client: Client | None = None, environment_name: str | None = None) -> Talk[None]:
        """Old spelling of `Volume.objects.delete`."""
        yield DropObject("volume", name, environment_of(environment_name))


Volume.objects = Manager(Volume)


class VolumeUploadBatch:
    """Files that are uploaded together at the end of the block; nothing is when the block raises."""

    def __init__(self, volume: Volume, force: bool) -> None:
        self._volume, self._force = volume, force
        self._files: list[tuple[str, Path | IO[bytes], int | None]] = []

    def put_file(self, local_file: str | Path | IO[bytes], remote_path: str | PurePosixPath, mode: int | None = None) -> None:
        """Upload a file, or what an open binary file has from where it stands.

        Args:
            remote_path: of the file; with a slash at the end the directory that it goes into.
            mode: permissions; by default those of the local file, or 0644.

        Raises:
            FileNotFoundError, InvalidError: there is no such local file; an open file has no name for `remote_path`.
        """
        remote = _text(remote_path)
        if isinstance(local_file, str | os.PathLike):
            path = Path(local_file)
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidError(f"local_file {str(path)!r} is not a plain file; put_directory takes directories")
            remote = remote + path.name if remote.endswith("/") else remote
            self._files.append((remote, path, stat.S_IMODE(facts.st_mode) if mode is None else mode))
            return
        if remote.endswith("/"):
            raise InvalidError(f"remote_path={remote!r} names a directory; an open file needs a name too")
        self._files.append((remote, local_file, mode))

    def put_directory(self, local_path: str | Path, remote_path: str | PurePosixPath, recursive: bool = True) -> None:
        """Upload the files of a directory, and of those below it.

        Raises:
            InvalidError: it is not a directory.
        """
        top = Path(local_path)
        if not top.is_dir():
            raise InvalidError(f"local_path {str(top)!r} is not a directory")
        remote = PurePosixPath(_text(remote_path))
        for folder, folders, names in os.walk(top):
            if not recursive:
                folders.clear()
            for name in sorted(names):
                path = Path(folder) / name
                if path.is_file():
                    self.put_file(path, str(remote / path.relative_to(top)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            talk(self._volume.client, self.upload())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            await talk_aio(self._volume.client, self.upload())

    def upload(self, progress: Callable[[int, int], None] = lambda files, size: None) -> Talk[None]:
        """Send everything and bring it to the disk. `progress` is told files and bytes that are there."""
        volume = yield from self._volume._find()
        with _as_builtin():
            if not self._force:
                paths = [path for path, _, _ in self._files]
                if twice := {path for path in paths if paths.count(path) > 1} if len(paths) < 1000 else set():
                    raise PathExistsError(f"{sorted(twice)[0]!r} is uploaded twice; use force=True to let the later one count")
                for start in range(0, len(paths), 10_000):
                    yield VolumeDo(volume, "check", tuple(paths[start : start + 10_000]))
            yield from self._send(volume, progress)
            if self._files:
                yield VolumeDo(volume, "commit")

    def _send(self, volume: str, progress: Callable[[int, int], None]) -> Talk[None]:
        small: list[NewFile] = []
        size = files = total = 0
        for path, source, mode in self._files:
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
                head = file.read(SMALL_BYTES + 1)
                if not isinstance(head, bytes):
                    raise InvalidError(f"the file for {path!r} gives text; open it in binary mode")
                if len(head) <= SMALL_BYTES:
                    small.append(NewFile(path, head, mode))
                    size += len(head)
                else:
                    total += yield from self._send_parts(volume, path, head, file, mode)
                    files += 1
                    progress(files, total)
            if size >= BATCH_BYTES or len(small) >= BATCH_FILES:
                yield VolumeWrite(volume, tuple(small), self._force)
                files, total = files + len(small), total + size
                progress(files, total)
                small, size = [], 0
        if small:
            yield VolumeWrite(volume, tuple(small), self._force)
            progress(files + len(small), total + size)

    def _send_parts(self, volume: str, path: str, head: bytes, file: IO[bytes], mode: int | None) -> Talk[int]:
        upload = os.urandom(12).hex()
        digest = hashlib.sha256()
        offset = 0
        data = head + file.read(PART_BYTES - len(head))
        while data:
            digest.update(data)
            following = file.read(PART_BYTES)
            last = not following
            yield VolumeUpload(volume, upload, path, offset, data, last, mode, digest.hexdigest() if last else "", self._force)
            offset += len(data)
            data = following
        return offset


def check_volumes(volumes: object) -> tuple[tuple[str, Volume], ...]:
    """The volumes of a ``volumes=`` parameter, by their paths.

    Raises:
        InvalidError: not a dict of paths and volumes, a path where nothing can be mounted, one volume twice.
        UnsupportedError: a CloudBucketMount or NetworkFileSystem.
    """
    if volumes is None:
        return ()
    if not isinstance(volumes, dict):
        raise InvalidError('volumes is a dict of paths and volumes, for example volumes={"/data": squall.Volume.from_name("data")}')
    found: dict[str, Volume] = {}
    for path, volume in volumes.items():
        if not isinstance(path, str | PurePosixPath):
            raise InvalidError(f"volumes: {path!r} is not a path")
        text = os.path.normpath(str(path))
        if not text.startswith("/") or ".." in PurePosixPath(str(path)).parts or "\0" in text:
            raise InvalidError(f"volumes: {str(path)!r} is not an absolute path")
        text = "/" + text.lstrip("/")
        if text in _TAKEN or text.startswith(("/proc/", "/sys/", "/dev/", "/.squall/")):
            raise InvalidError(f"volumes: nothing can be mounted at {text!r}; take a directory of its own, for example /data")
        if not isinstance(volume, Volume):
            kind = type(volume).__name__
            if kind in ("CloudBucketMount", "NetworkFileSystem"):
                raise UnsupportedError(f"volumes: {kind} is not supported yet; squall.Volume is")
            raise InvalidError(f"volumes[{text!r}] is no squall.Volume but {kind}")
        if text in found:
            raise InvalidError(f"volumes: {text!r} is given twice")
        if volume in found.values():
            raise InvalidError(f"volumes: {volume!r} is mounted twice; a function can mount a volume once")
        found[text] = volume
    return tuple(found.items())


def mount(volumes: Sequence[tuple[str, Volume]], environment: str, client: Client | None = None) -> tuple[VolumeMount, ...]:
    """The mounts of a function's spec; volumes are looked up, and made if they may be.

    Raises:
        NotFoundError: there is no such volume.
    """
    mounts = []
    for path, volume in volumes:
        opened = talk(client or volume.client, volume._open(environment))
        mounts.append(VolumeMount(path, opened.id, volume._read_only))
    return tuple(mounts)


@contextlib.contextmanager
def _as_builtin() -> Iterator[None]:
    """Missing and existing paths are raised as errors that are also the builtin ones."""
    try:
        yield
    except NotFoundError as error:
        raise PathNotFoundError(str(error)) from None
    except AlreadyExistsError as error:
        raise PathExistsError(str(error)) from None


def _entry(entry: Entry) -> FileEntry:
    return FileEntry(entry.path, _TYPES.get(entry.type, FileEntryType.OTHER), int(entry.mtime), entry.size)


def _text(path: object) -> str:
    if not isinstance(path, str | PurePosixPath):
        raise InvalidError(f"{path!r} is not a path in a volume")
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(f"the path {text!r} can't be written as UTF-8") from error
    return text
