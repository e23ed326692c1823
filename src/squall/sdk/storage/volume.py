"""Volume: a directory that containers share and that outlives them."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, Any, ClassVar, Self

from squall.model.errors import InvalidError
from squall.sdk.client.client import Client
from squall.sdk.client.dual_method import Dual
from squall.sdk.client.settings import environment_of
from squall.sdk.client.sync_async import Ask, Give, Stream, Talk, Twin, static
from squall.sdk.refusals import refuse_given
from squall.sdk.storage.named_objects import EphemeralMethod, Manager, StoredObject
from squall.sdk.storage.sizes import parse_size
from squall.sdk.storage.volume_paths import as_builtin, as_folder, as_text
from squall.sdk.storage.volume_uploads import PART_BYTES, VolumeUploadBatch
from squall.sdk.types import FileEntry, FileEntryType, VolumeInfo, VolumeSnapshot
from squall.wire.messages import Rows
from squall.wire.state import Chunk, DropObject, Entries, Entry, RenameObject, VolumeDo, VolumeHistory, VolumeList, VolumeRead

_TYPES = {
    "file": FileEntryType.FILE, "dir": FileEntryType.DIRECTORY, "link": FileEntryType.SYMLINK, "fifo": FileEntryType.FIFO, "socket": FileEntryType.SOCKET,
}  # fmt: skip


class Volume(StoredObject):
    """Files that outlive containers: mount it with ``@app.function(volumes={"/data": volume})``.

    On one machine it is one directory: what a container writes is seen by every other at once. `commit` brings it to the disk; `reload` does nothing there.
    """

    _kind: ClassVar[str] = "volume"
    _prefix: ClassVar[str] = "vo"
    _info: ClassVar[Any] = VolumeInfo
    _read_only: bool = False
    _strict: bool = False
    _sub_path: str = ""
    _quota: int | None = None
    objects: ClassVar["Manager[Volume]"]
    ephemeral = EphemeralMethod()

    @classmethod
    def from_id(cls, volume_id: str, client: Client | None = None) -> Self:
        """The volume of an id. Raises InvalidError when it is none of a volume."""
        return cls._of_id(volume_id, client)

    @classmethod
    def from_name(
        cls, name: str, *, environment_name: str | None = None, create_if_missing: bool = False, version: int | None = None, create_options: Any = None,
        client: Client | None = None, strict: bool = False, quota: int | str | None = None,
    ) -> Self:  # fmt: skip
        """The volume of this name; see `StoredObject.from_name`.

        Args:
            version: 1 or 2; here they are the same, without the limits of either.
            create_options: not supported yet.
            strict: a container that mounts it sees what was committed when it started, others see what it writes when it commits, and `reload` fails while
                files are open. For tests of programs that will run where volumes are so.
            quota: bytes, or text such as ``"10GiB"``, that a volume which is made now may hold.

        Raises:
            InvalidError: a quota that is no size.
        """
        cls._check_options("from_name", {"version": version, "create_options": create_options}, ())
        made = super().from_name(name, environment_name=environment_name, create_if_missing=create_if_missing, client=client)
        made._strict = strict
        made._quota = None if quota is None else parse_size("quota", quota)
        return made

    @classmethod
    def _check_options(cls, method: str, unknown: Mapping[str, Any], known: Sequence[str]) -> None:
        options = dict(unknown)
        if (version := options.pop("version", None)) not in (None, 1, 2) or isinstance(version, bool):
            raise InvalidError(f"version={version!r} of Volume.{method} is neither 1 nor 2")
        own = ("create_options", "experimental_options")
        refuse_given(f"Volume.{method}", **{name: options.pop(name) for name in own if name in options})
        super()._check_options(method, options, (*known, "version", *own))

    def with_mount_options(self, *, read_only: bool | None = None, sub_path: str | PurePosixPath | None = None, strict: bool | None = None) -> Self:
        """The same volume, mounted otherwise. An option that is not given stays as it was.

        Args:
            sub_path: mount this directory of the volume only. A container that starts makes it, if it is not there.

        Raises:
            InvalidError: `sub_path` is no path down from the volume's root.
        """
        made = self._make(name=self._name, environment=self._environment, create=self._create, object_id=self._id, client=self._client)
        made._read_only = self._read_only if read_only is None else read_only
        made._strict = self._strict if strict is None else strict
        made._sub_path = self._sub_path if sub_path is None else as_folder("sub_path", sub_path)
        made._quota = self._quota
        return made

    def read_only(self) -> Self:
        """Old spelling of ``with_mount_options(read_only=True)``."""
        return self.with_mount_options(read_only=True)

    def _state(self) -> dict[str, Any]:
        return {name: value for name in ("_read_only", "_strict", "_sub_path", "_quota") if (value := getattr(self, name))}

    # of a container's own mount

    @Twin
    def commit(self) -> Talk[None]:
        """What was written until now is on the disk when this returns."""
        yield VolumeDo((yield from self._find()), "commit")

    @Twin
    def reload(self) -> Talk[None]:
        """See what others wrote. On one machine that is so already, unless the mount is `strict`.

        Raises:
            ConflictError: the mount is strict, and a process of the container has a file of it open, or is in one of its directories.
        """
        yield VolumeDo((yield from self._find()), "reload")

    # files from outside

    @Stream
    def iterdir(self, path: str, *, recursive: bool = True) -> Talk[None]:
        """Entries below `path`, or the file at `path`.

        Raises:
            NotFoundError: (also a FileNotFoundError) nothing is there.
        """
        yield Give(_entry(entry) for entry in (yield from self.entries(path, recursive)))

    @Twin
    def listdir(self, path: str, *, recursive: bool = False) -> Talk[list[FileEntry]]:
        """`iterdir` as a list, by default without what lies deeper."""
        return [_entry(entry) for entry in (yield from self.entries(path, recursive))]

    def entries(self, path: str, recursive: bool) -> Talk[list[Entry]]:
        """What lies at `path`, as the server says it."""
        found: list[Entry] = []

        def take(event: Any) -> None:
            if isinstance(event, Entries):
                found.extend(event.entries)

        volume = yield from self._find()
        with as_builtin():
            yield Ask(VolumeList(volume, as_text(path), recursive), take)
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
            with as_builtin():
                chunk: Chunk = yield VolumeRead(volume, as_text(path), offset, PART_BYTES, version)
            version = chunk.version
            offset += len(chunk.data)
            if chunk.data:
                yield Give((chunk.data,))
            if offset >= chunk.size or not chunk.data:
                return

    @Twin
    def read_file_into_fileobj(self, path: str, fileobj: IO[bytes], progress_cb: Callable[..., Any] | None = None) -> Talk[int]:
        """Write a file's content into `fileobj`; how many bytes. `progress_cb` is not supported yet."""
        refuse_given("Volume.read_file_into_fileobj", progress_cb=progress_cb)
        volume = yield from self._find()
        version, offset = "", 0
        while True:
            with as_builtin():
                chunk: Chunk = yield VolumeRead(volume, as_text(path), offset, PART_BYTES, version)
            version = chunk.version
            offset += len(chunk.data)
            fileobj.write(chunk.data)
            if offset >= chunk.size or not chunk.data:
                return offset

    @Twin
    def copy_files(self, src_paths: Sequence[str], dst_path: str, recursive: bool = False) -> Talk[None]:
        """Copy within the volume, as ``cp`` does."""
        with as_builtin():
            yield VolumeDo((yield from self._find()), "copy", tuple(as_text(path) for path in src_paths), as_text(dst_path), recursive)

    @Twin
    def remove_file(self, path: str, recursive: bool = False) -> Talk[None]:
        """Delete a file; a directory with everything in it if `recursive`."""
        with as_builtin():
            yield VolumeDo((yield from self._find()), "remove", (as_text(path),), "", recursive)

    @property
    def batch_upload(self) -> Dual[..., VolumeUploadBatch, VolumeUploadBatch]:
        """``with volume.batch_upload() as batch: batch.put_file(...)`` uploads at the end of the block; ``async with`` does too.

        `force`: write over what is there; without it a path that is taken is refused before anything is written.
        """

        def make(force: bool = False) -> VolumeUploadBatch:
            return VolumeUploadBatch(self, force)

        return Dual(make, make)

    # its history

    @Twin
    def snapshot(self, note: str = "") -> Talk[VolumeSnapshot]:
        """Keep the files as they are now. Each is whole; where others write meanwhile, which state is kept is not said.

        Raises:
            ConflictError: a file is written without a pause.
            ResourceExhaustedError: the disk is full.
        """
        answer: Rows = yield VolumeHistory((yield from self._find()), "take", "", note)
        return _snapshot(answer.rows[0])

    @Twin
    def history(self) -> Talk[list[VolumeSnapshot]]:
        """Its snapshots, newest first."""
        answer: Rows = yield VolumeHistory((yield from self._find()))
        return [_snapshot(row) for row in answer.rows]

    @Twin
    def restore(self, snapshot_id: str) -> Talk[None]:
        """Make the files what they were. What was written since is gone, unless it is in another snapshot.

        Raises:
            NotFoundError: no such snapshot.
            ConflictError: a running container has the volume.
        """
        yield VolumeHistory((yield from self._find()), "restore", snapshot_id)

    @Twin
    def forget(self, snapshot_id: str) -> Talk[None]:
        """Delete a snapshot. Raises NotFoundError."""
        yield VolumeHistory((yield from self._find()), "delete", snapshot_id)

    @Twin
    def set_quota(self, quota: int | str) -> Talk[None]:
        """Let it hold more. Only of a volume that was made with a quota. Raises InvalidError."""
        yield VolumeDo((yield from self._find()), "quota", (), str(parse_size("quota", quota)))

    @static
    def rename(old_name: str, new_name: str, *, client: Client | None = None, environment_name: str | None = None) -> Talk[None]:
        """Give a volume another name. Apps that run keep it."""
        yield RenameObject("volume", old_name, new_name, environment_of(environment_name))

    @static
    def delete(name: str, *, client: Client | None = None, environment_name: str | None = None) -> Talk[None]:
        """Old spelling of `Volume.objects.delete`."""
        yield DropObject("volume", name, environment_of(environment_name))


Volume.objects = Manager(Volume)


def _entry(entry: Entry) -> FileEntry:
    return FileEntry(entry.path, _TYPES.get(entry.type, FileEntryType.UNSPECIFIED), int(entry.mtime), entry.size)


def _snapshot(row: dict[str, Any]) -> VolumeSnapshot:
    return VolumeSnapshot(row["id"], datetime.fromtimestamp(row["created_at"], UTC), row["note"], row["files"], row["bytes"])
