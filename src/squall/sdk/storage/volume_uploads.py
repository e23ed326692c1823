"""`Volume.batch_upload()`: many files in few messages, large ones in parts."""

import contextlib
import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

from squall.model.errors import InvalidError
from squall.sdk.client.sync_async import Talk, talk, talk_aio
from squall.sdk.storage.volume_paths import PathExistsError, as_builtin, as_text
from squall.wire.state import Count, NewFile, VolumeDo, VolumeUpload, VolumeWrite

if TYPE_CHECKING:
    from squall.sdk.storage.volume import Volume

#: Files up to this size travel whole, many in one message of at most `BATCH_BYTES` and `BATCH_FILES`.
SMALL_BYTES, BATCH_BYTES, BATCH_FILES = 1 << 20, 4 << 20, 1_000
#: Larger ones in parts of this size.
PART_BYTES = 4 << 20
#: Where nothing is: removed since it was listed, or a link to nothing or to itself.
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
#: Paths in one question whether they are free.
CHECKED_FILES = 10_000


class VolumeUploadBatch:
    """Files that are uploaded together at the end of the block; nothing is when the block raises."""

    def __init__(self, volume: "Volume", force: bool) -> None:
        self._volume, self._force = volume, force
        self.files: list[tuple[str, Path | IO[bytes], int | None]] = []

    def put_file(self, local_file: str | Path | IO[bytes], remote_path: str | PurePosixPath, mode: int | None = None) -> None:
        """Upload a file, or what an open binary file has from where it stands.

        Args:
            remote_path: of the file; with a slash at the end the directory that it goes into.
            mode: permissions; by default those of the local file, or 0644.

        Raises:
            FileNotFoundError, InvalidError: there is no such local file; an open file has no name for `remote_path`.
        """
        remote = as_text(remote_path)
        if isinstance(local_file, str | os.PathLike):
            path = Path(local_file)
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise InvalidError(f"local_file {str(path)!r} is not a plain file; put_directory takes directories")
            remote = remote + path.name if remote.endswith("/") else remote
            self.files.append((remote, path, stat.S_IMODE(facts.st_mode) if mode is None else mode))
            return
        if remote.endswith("/"):
            raise InvalidError(f"remote_path={remote!r} names a directory; an open file needs a name too")
        self.files.append((remote, local_file, mode))

    def put_directory(self, local_path: str | Path, remote_path: str | PurePosixPath, recursive: bool = True) -> None:
        """Upload the files of a directory, and of those below it.

        Raises:
            InvalidError: it is not a directory.
        """
        top = Path(local_path)
        if not top.is_dir():
            raise InvalidError(f"local_path {str(top)!r} is not a directory")
        remote = PurePosixPath(as_text(remote_path))
        for folder, folders, names in os.walk(top):
            if not recursive:
                folders.clear()
            here = Path(folder)
            there = str(remote / here.relative_to(top) / "_")[:-1]  # with a slash at its end, where it is not empty
            for name in sorted(names):  # little work for each: there may be ten thousands
                path = here / name
                try:
                    mode = path.stat().st_mode
                except OSError as error:
                    if error.errno not in _NOTHING:
                        raise
                    continue
                if stat.S_ISREG(mode):
                    self.files.append((there + name, path, stat.S_IMODE(mode)))

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

    def check(self) -> Talk[None]:
        """That no path is taken.

        Raises:
            AlreadyExistsError: (also a FileExistsError) one is, or is uploaded twice, and not `force`.
        """
        if self._force:
            return
        paths = [path for path, _, _ in self.files]
        if len(set(paths)) < len(paths):
            twice = next(path for path, times in Counter(paths).items() if times > 1)
            raise PathExistsError(f"{twice!r} is uploaded twice; use force=True to let the later one count")
        volume = yield from self._volume._find()
        with as_builtin():
            for start in range(0, len(paths), CHECKED_FILES):
                yield VolumeDo(volume, "check", tuple(paths[start : start + CHECKED_FILES]))

    def upload(self, progress: Callable[[int, int], None] = lambda files, size: None) -> Talk[None]:
        """Send everything and bring it to the disk. `progress` is told how many more files and bytes are there."""
        yield from self.check()
        yield from self.send(progress)
        yield from self.commit()

    def commit(self) -> Talk[None]:
        """Bring what was sent to the disk."""
        if self.files:
            yield VolumeDo((yield from self._volume._find()), "commit")

    def send(self, progress: Callable[[int, int], None]) -> Talk[None]:
        """Send everything."""
        volume = yield from self._volume._find()
        small: list[NewFile] = []
        size = 0
        with as_builtin():
            for path, source, mode in self.files:
                with contextlib.ExitStack() as stack:
                    file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
                    head = file.read(SMALL_BYTES + 1)
                    if not isinstance(head, bytes):
                        raise InvalidError(f"the file for {path!r} gives text; open it in binary mode")
                    if len(head) > SMALL_BYTES:
                        yield from self._send_parts(volume, path, head, file, mode, _upload_name(source, path), progress)
                        progress(1, 0)
                        continue
                small.append(NewFile(path, head, mode))
                size += len(head)
                if size >= BATCH_BYTES or len(small) >= BATCH_FILES:
                    yield VolumeWrite(volume, tuple(small), self._force)
                    progress(len(small), size)
                    small, size = [], 0
            if small:
                yield VolumeWrite(volume, tuple(small), self._force)
                progress(len(small), size)

    def _send_parts(
        self, volume: str, path: str, head: bytes, file: IO[bytes], mode: int | None, upload: str, progress: Callable[[int, int], None]
    ) -> Talk[None]:
        digest = hashlib.sha256()
        offset = there = 0
        if upload:
            count: Count = yield VolumeDo(volume, "uploaded", (upload,))
            there = count.count
        upload = upload or os.urandom(12).hex()
        data = head + file.read(PART_BYTES - len(head))
        while data:
            digest.update(data)
            following = file.read(PART_BYTES)
            last = not following
            if offset >= there or last:
                # What an upload that was cut had brought is not sent again; the digest of the whole says whether it was the same.
                begin = min(max(there - offset, 0), len(data))
                yield VolumeUpload(volume, upload, path, offset + begin, data[begin:], last, mode, digest.hexdigest() if last else "", self._force)
            elif offset + len(data) > there:
                yield VolumeUpload(volume, upload, path, there, data[there - offset :], False, mode, "", self._force)
            offset += len(data)
            progress(0, len(data))
            data = following


def _upload_name(source: Path | IO[bytes], path: str) -> str:
    """The same for the same content to the same place, so that an upload that was cut goes on; empty where that can't be known."""
    if not isinstance(source, Path):
        return ""
    facts = source.stat()
    what = f"{path}\0{source.resolve()}\0{facts.st_ino}\0{facts.st_size}\0{facts.st_mtime_ns}"
    return "r" + hashlib.sha256(what.encode(errors="surrogateescape")).hexdigest()[:40]
