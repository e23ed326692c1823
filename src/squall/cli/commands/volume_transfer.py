"""`squall volume put` and `get`: several files at a time, with a bar, and going on where a transfer was cut."""

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from squall.model.errors import AlreadyExistsError, ConflictError, InvalidError
from squall.sdk.client.sync_async import talk
from squall.sdk.storage.volume_paths import as_builtin
from squall.sdk.storage.volume_uploads import PART_BYTES, VolumeUploadBatch
from squall.wire.messages import Names
from squall.wire.state import Chunk, VolumeDo, VolumeRead

#: Files on their way at a time: one is read, one sent, one written, one waits for the disk.
WORKERS = 4
#: Of this many files or more only two parts go at a time: they are small then, and more writers only wait for each other in the server.
MANY_FILES, MANY_WORKERS = 1_000, 2
#: Fewer files than this are not worth a thread.
SHARE_FILES = 100
#: What is left of a cut download is kept from this size on.
KEPT_BYTES = 8 << 20

Step = Callable[[int, int], None]


def put(volume: Any, local: Path, remote: str, *, force: bool, resume: bool) -> tuple[int, int]:
    """Upload; how many files were sent, and how many left out.

    Raises:
        InvalidError, AlreadyExistsError: nothing is at `local`; something is at a path of the volume.
    """
    batch = VolumeUploadBatch(volume, force)
    if str(local) == "-":
        batch.put_file(sys.stdin.buffer, remote)
    elif local.is_dir():
        batch.put_directory(local, f"{remote}{local.resolve().name}" if remote.endswith("/") else remote)
    elif local.exists():
        batch.put_file(local, remote)
    else:
        raise InvalidError(f"{str(local)!r} is not there")
    files = batch.files
    if resume:
        batch.files = _not_there(volume, files)
    talk(volume.client, batch.check())
    with _progress("uploading", len(batch.files), lambda: sum(source.stat().st_size for _, source, _ in batch.files if isinstance(source, Path))) as step:
        _each(_shares(batch, volume, force), lambda share: talk(volume.client, share.send(step)))
    talk(volume.client, batch.commit())
    return len(batch.files), len(files) - len(batch.files)


def _shares(batch: VolumeUploadBatch, volume: Any, force: bool) -> list[VolumeUploadBatch]:
    """The batch in parts, neighbours together: they go into the same directories."""
    shares = []
    size = max(SHARE_FILES, -(-len(batch.files) // (WORKERS if len(batch.files) < MANY_FILES else MANY_WORKERS)))
    for start in range(0, len(batch.files), size):
        share = VolumeUploadBatch(volume, force)
        share.files = batch.files[start : start + size]
        shares.append(share)
    return shares


def _not_there(volume: Any, files: Sequence[Any]) -> list[Any]:
    """Without those whose content is in the volume already."""
    left = []
    for start in range(0, len(files), SHARE_FILES):
        some = files[start : start + SHARE_FILES]
        answer = volume.client.request(VolumeDo(volume.hydrate().object_id, "digests", tuple(path for path, _, _ in some)))
        assert isinstance(answer, Names)
        for file, there in zip(some, answer.names, strict=True):
            if not there or not isinstance(file[1], Path) or _digest(file[1]) != there:
                left.append(file)
    return left


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def get(volume: Any, remote: str, local: Path, *, force: bool) -> tuple[int, int]:
    """Download; files and bytes.

    Raises:
        AlreadyExistsError: something is at a place where a file would go.
    """
    files = list(_targets(volume, remote, local))
    there = [] if force else [target for _, target in files if os.path.lexists(target)]
    if there:
        raise AlreadyExistsError(f"{there[0]} is there already{f', and {len(there) - 1} others' if len(there) > 1 else ''}; --force writes over it")
    for folder in {target.parent for _, target in files}:
        folder.mkdir(parents=True, exist_ok=True)
    total = sum(entry.size for entry, _ in files)
    with _progress("downloading", len(files), lambda: total) as step:
        _each(files, lambda file: _download(volume, file[0].path, file[1], step))
    return len(files), total


def _targets(volume: Any, remote: str, local: Path) -> Iterator[tuple[Any, Path]]:
    """Files at `remote`, each with the place where it goes."""
    root = PurePosixPath(remote.strip("/"))
    entries = volume.listdir(remote, recursive=True)
    single = len(entries) == 1 and entries[0].path == str(root)
    for entry in entries:
        if entry.type.name == "FILE":
            below = PurePosixPath(entry.path).relative_to(root) if not single and str(root) != "." else PurePosixPath(entry.path)
            if single:
                yield entry, local / root.name if local.is_dir() else local
            else:
                yield entry, (local / root.name if local.is_dir() and root.name else local) / below


def _download(volume: Any, path: str, target: Path, step: Step) -> None:
    """Through a file beside it, so that a download that is cut leaves nothing that looks whole. That of a large file is gone on with the next time."""
    client, found = volume.client, volume.hydrate().object_id

    def read(offset: int, version: str) -> Chunk:
        answer = client.request(VolumeRead(found, path, offset, PART_BYTES, version))
        assert isinstance(answer, Chunk)
        return answer

    with as_builtin():
        chunk = read(0, "")
        mark = hashlib.sha256(f"{path}\0{chunk.version}".encode()).hexdigest()[:12]
        part = target.with_name(f".squall-{mark}.part")
        try:
            with part.open("ab") as file:
                offset = file.tell()
                if offset == 0:
                    file.write(chunk.data)
                    offset = len(chunk.data)
                step(0, offset)
                while offset < chunk.size:
                    chunk = read(offset, chunk.version)
                    file.write(chunk.data)
                    offset += len(chunk.data)
                    step(0, len(chunk.data))
            os.replace(part, target)
            step(1, 0)
        except BaseException as error:
            if isinstance(error, ConflictError) or not part.exists() or part.stat().st_size < KEPT_BYTES:
                part.unlink(missing_ok=True)
            raise


def _each(work: Sequence[Any], do: Callable[[Any], None]) -> None:
    """Do it for all, several at a time; the first error ends it."""
    if len(work) < 2:
        for item in work:
            do(item)
        return
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="squall transfer") as pool:
        done = [pool.submit(do, item) for item in work]
        try:
            for each in done:
                each.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def _progress(what: str, files: int, size: Callable[[], int]) -> Iterator[Step]:
    """A bar on a terminal, nothing elsewhere. `size` tells the bytes, if there is a bar."""
    if not sys.stderr.isatty() or ((total := size()) < KEPT_BYTES and files < 2):
        yield lambda number, size: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    lock, done = threading.Lock(), 0
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)

        def step(number: int, size: int) -> None:
            nonlocal done
            with lock:
                done += number
                bar.update(task, advance=size, description=f"{what} {done}/{files}")

        yield step
