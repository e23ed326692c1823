"""Writing files into a layer so that the image below shows through: owners, modes of directories, and symbolic links in their paths."""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from squall.model.errors import InvalidError
from squall.model.specs import SourceFile

#: What directories are in a Debian, for layers that are made without one image in mind. In an overlay the topmost layer's directory decides for all.
_KNOWN_MODES = {"/tmp": 0o1777, "/var/tmp": 0o1777, "/root": 0o700}
#: Directories that are symbolic links in every merged-/usr system: a real one in a layer would hide all that is behind the link.
_KNOWN_LINKS = {"/bin": "/usr/bin", "/sbin": "/usr/sbin", "/lib": "/usr/lib", "/lib64": "/usr/lib64", "/var/run": "/run", "/var/lock": "/run/lock"}


#: What the common file systems give out.
_BLOCK_BYTES = 4096

#: Files up to this size are read and written whole: quicker than having the kernel copy them.
_SMALL_BYTES = 1 << 18


def write_files(
    root: Path,
    files: Iterable[SourceFile],
    content: Callable[[str], Path],
    *,
    owner: int | None,
    lowers: Sequence[Path] = (),
    alike: tuple[Path, Mapping[str, str]] | None = None,
) -> int:
    """Put `files` below `root`. Returns the bytes of disk that they use, as far as their sizes tell.

    Args:
        root: an existing directory, the layer's root.
        content: digest -> the file that holds the content; it is copied.
        owner: host uid and gid of what is written; None: this process's.
        lowers: the layers below, lowest first; modes of directories and links in paths are theirs.
        alike: root of a layer that this function wrote with the same `owner`, and what is in it (path -> `mark`). What both have is linked, not written.

    Raises:
        InvalidError: a path is not absolute, has `..`, or is a file here and a directory there.
        NotFoundError: a content is not stored.
    """
    if owner is not None:
        os.chown(root, owner, owner)
    folders: dict[str, str] = {}  # directory as it is written -> where it is on this machine
    old_root, old = alike if alike is not None else (root, {})
    cut, size = len(str(root)), 0
    for file in files:
        path = check(file.path)
        folder, _, name = path.rpartition("/")
        try:
            if (place := folders.get(folder)) is None:
                inside = resolve(path, lowers).rpartition("/")[0]
                make_parents(root, f"{inside}/x", owner, lowers)
                place = folders[folder] = f"{root}{inside}"
            target = f"{place}/{name}"
            if old.get(file.path) != mark(file) or not _link(f"{old_root}{place[cut:]}/{name}", target):
                _write(content(file.digest), target, file, owner)
            size += -(-file.size // _BLOCK_BYTES) * _BLOCK_BYTES
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise InvalidError(f"{file.path} is a file in one place of the image's files and a directory in another") from error
    return size + len(folders) * _BLOCK_BYTES


def mark(file: SourceFile) -> str:
    """What a placed file is but for its path."""
    return f"{file.digest}{'x' if file.executable else ''}"


def _link(source: str, target: str) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        return False  # it is gone, or has as many names as the file system allows
    return True


def _write(source: Path, target: str, file: SourceFile, owner: int | None) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb", buffering=0) as out:
        if file.size <= _SMALL_BYTES:
            out.write(source.read_bytes())
        else:
            with source.open("rb") as content:
                shutil.copyfileobj(content, out, 1 << 20)
        if owner is not None:
            os.fchown(descriptor, owner, owner)
        os.fchmod(descriptor, 0o755 if file.executable else 0o644)
        # The same content has the same time, another content nearly always another: what compares times and sizes (bytecode, rsync) sees changes.
        seconds = 946_684_800 + int(file.digest[:7], 16)
        os.utime(descriptor, (seconds, seconds))


def check(path: str) -> str:
    """`path`, normalised.

    Raises:
        InvalidError: not absolute, the root itself, or with `..` or a NUL in it.
    """
    if path[:1] == "/" and path[-1] != "/" and "/." not in path and "//" not in path and "\0" not in path:
        return path  # of ten thousand nearly all
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path or not path.strip("/"):
        raise InvalidError(f"{path!r} can't be a file in a container: it must be absolute, without '..'")
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def resolve(path: str, lowers: Sequence[Path]) -> str:
    """`path` with the links of its directories followed, as a container of these layers would.

    Raises:
        OSError: ELOOP, as open(2). The kernel must not be left to follow the rest: it would do so from the root of this machine.
    """
    done, rest, hops = "", path.strip("/").split("/"), 0
    while len(rest) > 1:
        here = f"{done}/{rest[0]}"
        link = _link_below(here, lowers)
        if link is None:
            done, rest = here, rest[1:]
            continue
        hops += 1
        if hops > 40:  # what path_resolution(7) allows
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        joined = os.path.normpath(link if link.startswith("/") else f"{done}/{link}")
        done, rest = "", [part for part in joined.split("/") if part] + rest[1:]
    return f"{done}/{rest[0]}"


def shift(root: Path, base: int) -> None:
    """Add `base` to the owner and group of everything below `root`. Setuid and setgid bits stay; file capabilities are lost, as chown(2) has it."""
    done: set[int] = set()  # a file with several names is shifted once
    _shift_one(str(root), base, done)
    for directory, folders, names in os.walk(root):
        for name in (*folders, *names):
            _shift_one(os.path.join(directory, name), base, done)


def tree_bytes(root: Path) -> tuple[int, int]:
    """(bytes of disk used, number of files) below `root`; a file with several names counts once."""
    seen: set[int] = set()
    size = 0
    for directory, _, names in os.walk(root):
        for name in (".", *names):
            found = os.lstat(os.path.join(directory, name))
            if found.st_ino not in seen:
                seen.add(found.st_ino)
                size += found.st_blocks * 512
    return size, len(seen)


def like_below(upper: Path, layers: Sequence[Path], owner: int) -> None:
    """Give a layer's root directory, which is the container's, what the layer below has."""
    below = layers[-1].stat() if layers else None
    os.chown(upper, below.st_uid if below else owner, below.st_gid if below else owner)
    os.chmod(upper, (below.st_mode & 0o7777) if below else 0o755)


def like_lower(root: Path, names: Iterable[str], lowers: Sequence[Path], owner: int | None) -> None:
    """Give directories below `root` the modes and owners that they have in the layers below; new ones belong to `owner`."""
    for name in names:
        _check_real(root, f"/{name.lstrip('/')}")
        _directory(root, f"/{name.lstrip('/')}", owner, lowers)


def through_links(root: Path, names: Iterable[str], lowers: Sequence[Path]) -> list[str]:
    """Move what lies below `root` in directories that are links in the layers below to where the links lead. Returns the names that stayed."""
    stayed = []
    for name in sorted(names, key=lambda name: name.count("/")):
        path = f"/{name.strip('/')}"
        leads_to = resolve(f"{path}/x", lowers).removesuffix("/x") if name else path
        source = root / path.lstrip("/")
        if leads_to in (path, "") or source.is_symlink() or not source.is_dir():
            stayed.append(name)
            continue
        _check_real(root, path)
        make_parents(root, f"{leads_to}/x", None, lowers)
        _merge(source, root / leads_to.lstrip("/"))
    return stayed


def _merge(source: Path, target: Path) -> None:
    for entry in list(source.iterdir()):
        place = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and place.is_dir() and not place.is_symlink():
            _merge(entry, place)
        else:
            os.replace(entry, place)
    source.rmdir()


def make_parents(root: Path, path: str, owner: int | None, lowers: Sequence[Path]) -> None:
    """Make the directories above `path` (links in it are followed already), as they are below where they are there.

    Raises:
        FileExistsError, NotADirectoryError: something else is in the way, a link too: this process would follow it out of `root`.
    """
    _check_real(root, str(PurePosixPath(path).parent))
    for parent in reversed(PurePosixPath(path).parents):
        if str(parent) != "/" and not (root / str(parent).lstrip("/")).is_dir():
            _directory(root, str(parent), owner, lowers)


def _check_real(root: Path, path: str) -> None:
    """That no directory of `path` is a link below `root`. Those are an image's, and lead from the root of a container."""
    here = root
    for part in PurePosixPath(path).parts[1:]:
        here /= part
        if here.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, "a link is in the place of a directory", path)


def _shift_one(path: str, base: int, done: set[int]) -> None:
    found = os.lstat(path)
    if found.st_ino in done:
        return
    if found.st_nlink > 1:
        done.add(found.st_ino)
    os.lchown(path, found.st_uid + base, found.st_gid + base)
    if stat.S_ISREG(found.st_mode) and found.st_mode & (stat.S_ISUID | stat.S_ISGID):
        os.chmod(path, stat.S_IMODE(found.st_mode))  # chown(2) clears them


def _directory(root: Path, name: str, owner: int | None, lowers: Sequence[Path]) -> None:
    here = root / name.lstrip("/")
    for lower in reversed(lowers):
        try:
            found = (lower / name.lstrip("/")).lstat()
        except OSError:
            continue
        if stat.S_ISDIR(found.st_mode):
            here.mkdir(exist_ok=True)
            if owner is not None:
                os.chown(here, found.st_uid, found.st_gid)
            os.chmod(here, stat.S_IMODE(found.st_mode))
            return
        break
    here.mkdir(exist_ok=True)
    os.chmod(here, _KNOWN_MODES.get(name, 0o755))
    if owner is not None:
        os.chown(here, owner, owner)


def _link_below(path: str, lowers: Sequence[Path]) -> str | None:
    for lower in reversed(lowers):
        here = lower / path.lstrip("/")
        try:
            found = here.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return os.readlink(here) if stat.S_ISLNK(found.st_mode) else None
    return None if lowers else _KNOWN_LINKS.get(path)
