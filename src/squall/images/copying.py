"""COPY and ADD: files of a build context, of another image, of an archive or an address, put where a Dockerfile says."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from squall.images.causes import StepFailed
from squall.images.interpreter import lookup
from squall.images.place import make_parents, resolve
from squall.images.recipe import Copy
from squall.model.errors import InvalidError
from squall.runtime import mounts

_URL_BYTES_MAX = 4 << 30
_URL_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where things go: a draft's root, the layers below it, and the first host id of containers."""

    root: Path
    lowers: Sequence[Path]
    base: int
    workdir: str


def copy(action: Copy, place: Place, content: Callable[[str], Path], stage: Sequence[Path], scratch: Path) -> None:
    """Take the step. Blocks.

    Raises:
        StepFailed: a source is missing, an owner is unknown, a download failed.
        NotFoundError: a content is not stored.
    """
    target = action.target if action.target.startswith("/") else os.path.normpath(f"{place.workdir}/{action.target}")
    owner = _owner(action.owner, place)
    there = lookup(place.lowers, target) if target != "/" else None
    is_directory = bool(action.directory) or target == "/" or (there is not None and stat.S_ISDIR(there[1].st_mode))
    writer = _Writer(place, owner, action.mode)
    if action.layers:
        _from_stage(action, writer, target, is_directory, stage, scratch)
        return
    for file in action.files:
        path = f"{target}/{file.path}" if is_directory else target
        source = content(file.digest)
        if action.unpack and _is_archive(source):
            _unpack(source, target, writer, scratch, keep_owners=not action.owner)
            continue
        writer.file(source, path, 0o755 if file.executable else 0o644)
        # The same content has the same time (see `place.write_files`).
        seconds = 946_684_800 + int(file.digest[:7], 16)
        os.utime(writer.last, (seconds, seconds))
    for name, text in action.texts:
        source = scratch / "text"
        source.write_text(text)
        writer.file(source, f"{target}/{name}" if is_directory else target, 0o644)
    if action.url:
        if not action.url.startswith(("http://", "https://")):  # urllib opens file:// too, which is this machine's
            raise InvalidError(f"ADD {action.url}: only http:// and https:// are downloaded")
        source = _download(action.url, action.checksum, scratch / "download")
        name = action.url.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
        writer.file(source, f"{target}/{name}" if is_directory else target, 0o600)


class _Writer:
    """Writes below a root; owners and modes as the step wants them."""

    def __init__(self, place: Place, owner: tuple[int, int], mode: int | None) -> None:
        self._place, self._owner, self._mode = place, owner, mode
        self.last = place.root

    def _at(self, path: str) -> Path:
        path = self._resolve(path)
        above = [str(parent) for parent in PurePosixPath(path).parents if not (self._place.root / str(parent).lstrip("/")).is_dir()]
        made = [parent for parent in above if lookup(self._place.lowers, parent) is None]  # they are the owner's, as in other builders
        try:
            make_parents(self._place.root, path, self._place.base, self._place.lowers)
        except (FileExistsError, NotADirectoryError) as error:
            raise StepFailed(f"{path} can't be written: a directory above it is a file in the image") from error
        for parent in made:
            os.chown(self._place.root / parent.lstrip("/"), *self._owner)
        self.last = self._place.root / path.lstrip("/")
        return self.last

    def _resolve(self, path: str) -> str:
        """As the container will, with what this very step has written: a link of one source may be where a directory of the next one goes."""
        try:
            return resolve(os.path.normpath(path), (*self._place.lowers, self._place.root))
        except OSError as error:
            raise StepFailed(f"{path} can't be written: {error.strerror}") from error

    def file(self, source: Path, path: str, mode: int, like: os.stat_result | None = None) -> None:
        """`like`: whose owner, as in the container, it gets instead of the step's."""
        target = self._at(path)
        target.unlink(missing_ok=True)
        shutil.copyfile(source, target, follow_symlinks=False)
        self._finish(target, mode, like)

    def link(self, to: str, path: str, like: os.stat_result | None = None) -> None:
        target = self._at(path)
        target.unlink(missing_ok=True)
        target.symlink_to(to)
        os.chown(target, *self._owner_of(like), follow_symlinks=False)

    def directory(self, path: str, mode: int, like: os.stat_result | None = None) -> None:
        path = self._resolve(f"{path}/x").removesuffix("/x")
        target = self._at(path or "/")
        if not target.is_dir():
            target.mkdir()
            self._finish(target, mode, like)

    def _owner_of(self, like: os.stat_result | None) -> tuple[int, int]:
        # Ids beyond those of containers can't be theirs.
        ids = (like.st_uid, like.st_gid) if like is not None else (65_536, 65_536)
        return (self._place.base + ids[0], self._place.base + ids[1]) if max(ids) < 65_536 else self._owner

    def _finish(self, target: Path, mode: int, like: os.stat_result | None = None) -> None:
        os.chown(target, *self._owner_of(like))
        os.chmod(target, self._mode if self._mode is not None else mode)


def _from_stage(action: Copy, writer: _Writer, target: str, is_directory: bool, stage: Sequence[Path], scratch: Path) -> None:
    upper, work = scratch / "stage-upper", scratch / "stage-work"
    upper.mkdir()
    work.mkdir()
    mount = mounts.overlay(stage, upper, work, volatile=True)
    try:
        # Never attached: when this process dies, the mount is gone with the descriptor.
        root = Path(f"/proc/self/fd/{mount}")
        for source in action.sources:
            found = sorted(_glob(root, source))
            if not found:
                raise StepFailed(f"COPY: there is no {source} in the image that is copied from")
            for path in found:
                _tree(root, path, writer, target, is_directory or len(found) > 1)
    finally:
        os.close(mount)


def _tree(root: Path, path: str, writer: _Writer, target: str, is_directory: bool, *, keep_owners: bool = False) -> None:
    # A mount by its descriptor is a link, which lstat(2) would not follow.
    here = (root, os.stat(root), "/") if path == "/" else lookup((root,), path)
    assert here is not None
    if not stat.S_ISDIR(here[1].st_mode):
        name = path.rsplit("/", 1)[-1]
        writer.file(here[0], f"{target}/{name}" if is_directory else target, stat.S_IMODE(here[1].st_mode))
        return
    writer.directory(target, stat.S_IMODE(here[1].st_mode)) if target != "/" else None
    for folder, folders, names in os.walk(here[0]):
        relative = os.path.relpath(folder, here[0])
        for name in sorted(folders):
            source = Path(folder) / name
            if source.is_symlink():
                names.append(name)
            else:
                status = source.lstat()
                writer.directory(os.path.normpath(f"{target}/{relative}/{name}"), stat.S_IMODE(status.st_mode), status if keep_owners else None)
        for name in sorted(names):
            source, place = Path(folder) / name, os.path.normpath(f"{target}/{relative}/{name}")
            status = source.lstat()
            if stat.S_ISLNK(status.st_mode):
                writer.link(os.readlink(source), place, status if keep_owners else None)
            elif stat.S_ISREG(status.st_mode):
                writer.file(source, place, stat.S_IMODE(status.st_mode), status if keep_owners else None)


def _glob(root: Path, pattern: str) -> list[str]:
    """Paths in an image that a pattern matches; its links are followed inside the image only."""
    found = [""]
    for part in [part for part in os.path.normpath(f"/{pattern}").split("/") if part]:
        following: list[str] = []
        for path in found:
            if not any(sign in part for sign in "*?["):
                if lookup((root,), f"{path}/{part}") is not None:
                    following.append(f"{path}/{part}")
                continue
            here = lookup((root,), path) if path else (root, os.stat(root), "/")
            if here is not None and stat.S_ISDIR(here[1].st_mode):
                following += [f"{path}/{name}" for name in os.listdir(here[0]) if fnmatchcase(name, part)]
        found = following
    return [path or "/" for path in found] if pattern.strip("/.") else ["/"]


def _owner(text: str, place: Place) -> tuple[int, int]:
    """Host ids of ``user[:group]``: names as /etc/passwd and /etc/group of the image have them."""
    if not text:
        return place.base, place.base
    user, _, group = text.partition(":")
    uid, primary = _id(user, "/etc/passwd", place)
    gid = _id(group, "/etc/group", place)[0] if group else primary
    if not (0 <= uid < 65_536 and 0 <= gid < 65_536):
        raise InvalidError(f"--chown={text}: ids in containers are below 65536")
    return place.base + uid, place.base + gid


def _id(name: str, table: str, place: Place) -> tuple[int, int]:
    if name.isdigit():
        return int(name), int(name)
    found = lookup(place.lowers, table)
    for line in found[0].read_text(errors="replace").splitlines() if found is not None else ():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 3 - (table == "/etc/group"):
            return int(fields[2]), int(fields[3]) if table == "/etc/passwd" else int(fields[2])
    raise StepFailed(f"--chown: the image has no {'user' if table == '/etc/passwd' else 'group'} {name}")


def _is_archive(path: Path) -> bool:
    return tarfile.is_tarfile(path)


def _unpack(source: Path, target: str, writer: _Writer, scratch: Path, *, keep_owners: bool) -> None:
    """Unpack an archive as layers are, apart from the layer, and then copy it into its place. Whiteouts do not occur in archives of people."""
    # Its programs that run as their owner, who is root here until they are copied, are nobody else's.
    closed = scratch / "archive"
    closed.mkdir(mode=0o700)
    box = closed / "root"
    box.mkdir()
    with source.open("rb") as stream:
        plain = scratch / "archive.tar"
        with tarfile.open(fileobj=stream) as archive, tarfile.open(plain, "w") as out:
            for member in archive:
                out.addfile(member, archive.extractfile(member) if member.isreg() else None)
    with plain.open("rb") as stream:
        script = Path(__file__).with_name("unpack.py")
        done = subprocess.run([sys.executable, "-I", str(script), str(box), "0"], stdin=stream, capture_output=True, text=True)
    if done.returncode != 0:
        raise StepFailed(f"the archive can't be unpacked: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'damaged'}")
    _tree(box, "/", writer, target, True, keep_owners=keep_owners)
    shutil.rmtree(closed)
    plain.unlink()


def _download(url: str, checksum: str, place: Path) -> Path:
    try:
        with urllib.request.urlopen(url, timeout=_URL_TIMEOUT_S) as response, place.open("wb") as out:
            shutil.copyfileobj(response, out, 1 << 20)
    except (urllib.error.URLError, OSError) as error:
        raise StepFailed(f"ADD {url}: {getattr(error, 'reason', error)}") from error
    if checksum:
        algorithm, _, wanted = checksum.partition(":")
        if not re.fullmatch(r"sha(256|384|512)", algorithm):
            raise InvalidError(f"ADD --checksum={checksum}: not of the form sha256:...")
        with place.open("rb") as file:
            if hashlib.file_digest(file, algorithm).hexdigest() != wanted:
                raise StepFailed(f"ADD {url}: the content has another checksum than {checksum}")
    return place
