"""`add_python`: a Python for images that have none, whatever C library they have, or none at all.

First choice is uv's standalone build, where uv can fetch it. Otherwise the Python of a Debian base goes along with that Debian's own loader and libraries,
as hard links to the base's files: it takes no room, and nothing of the image below is used or changed.
"""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from squall.images import process
from squall.images.host import surroundings, uv_binary
from squall.images.place import make_parents, shift
from squall.images.recipe import AddPython
from squall.images.settings import ImageSettings

#: Below here each version has a directory of its own.
HOME = "/opt/squall"
#: Where uv takes its builds from, if not from their makers.
_MIRRORS = ("UV_PYTHON_INSTALL_MIRROR", "UV_PYTHON_DOWNLOADS_JSON_URL", "UV_HTTP_RETRIES")
_LOADERS = ("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")
#: Directories of extension modules' libraries that a Python brings along, below the base's root.
_SCRIPT = """#!/bin/sh
exec {home}/lib/loader --argv0 {home}/bin/{name} --library-path {home}/lib {home}/bin/.{name} "$@"
"""


async def fetch(action: AddPython, root: Path, scratch: Path, settings: ImageSettings, line: Callable[[str], None], *, owner: int | None) -> bool:
    """uv's build in a layer's `root`; False where uv can't have it."""
    around = surroundings(settings, inside=False)
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(scratch), **around.env, "UV_CACHE_DIR": str(scratch / "uv"), "UV_NO_PROGRESS": "1"}
    env |= {name: os.environ[name] for name in _MIRRORS if name in os.environ}
    env.setdefault("UV_HTTP_RETRIES", "1")  # a machine without a way out is told so in a second, not in ten
    place = root / HOME.lstrip("/")
    box = scratch / "python"
    code = await process.run((str(uv_binary()), "python", "install", "--install-dir", str(box), "--no-bin", action.version), line, env)
    found = [path for path in box.glob("cpython-*") if path.is_dir() and not path.is_symlink()] if box.is_dir() else []
    if code != 0 or len(found) != 1:
        return False
    place.mkdir(parents=True)
    home = place / f"python{_minor(action.version)}"
    os.rename(found[0], home)
    for marker in home.glob("lib/python3.*/EXTERNALLY-MANAGED"):
        marker.unlink()
    if owner is not None:
        shift(home, owner)
    return True


def borrow(version: str, base: Path, root: Path, *, owner: int | None) -> str:
    """The Python of a Debian base in a layer's `root`, linked. Returns the directory with its C library and loader, as the image sees it.

    Raises:
        OSError: the base is not what `debian.make` makes.
    """
    minor = _minor(version)
    home = root / f"{HOME.lstrip('/')}/python{minor}"
    for directory in ("bin", "lib", f"lib/python{minor}", f"local/lib/python{minor}", "local/bin"):
        (home / directory).mkdir(parents=True, exist_ok=True)
    _link_tree(base / f"usr/lib/python{minor}", home / f"lib/python{minor}")
    _link_tree(base / f"usr/local/lib/python{minor}", home / f"local/lib/python{minor}")
    for library in sorted((base / "usr/lib").glob("*-linux-gnu/*.so*")):
        target = home / "lib" / library.name
        if library.is_symlink():
            target.symlink_to(Path(os.readlink(library)).name)
        elif stat.S_ISREG(library.lstat().st_mode):
            os.link(library, target)
    loader = next(home / "lib" / name for name in _LOADERS if (home / "lib" / name).exists())
    (home / "lib/loader").symlink_to(loader.name)
    os.link(base / f"usr/bin/python{minor}", home / f"bin/.python{minor}")
    script = home / f"bin/python{minor}"
    script.write_text(_SCRIPT.format(home=f"{HOME}/python{minor}", name=f"python{minor}"))
    script.chmod(0o755)
    if owner is not None:
        for path in (script, *(home / name for name in ("bin", "lib", "local", "local/lib", "local/bin")), *home.glob("lib/*.so*"), home / "lib/loader"):
            os.chown(path, owner, owner, follow_symlinks=False)
        for path in (home, home.parent, root / "opt"):
            os.chown(path, owner, owner)
    return f"{HOME}/python{minor}/lib"


def name_commands(version: str, root: Path, lowers: tuple[Path, ...], *, owner: int | None) -> str:
    """Put ``python``, ``python3`` and ``pip`` on the PATH of the image. Returns the interpreter's path in it."""
    minor = _minor(version)
    home = f"{HOME}/python{minor}"
    make_parents(root, "/usr/local/bin/python", owner, lowers)
    interpreter = f"{home}/bin/python{minor}"
    for name in ("python", "python3", f"python{minor}"):
        # Not a link: Python looks for its library where the path that it was called by leads, and uv follows links.
        _program(root / "usr/local/bin" / name, f'#!/bin/sh\nexec {interpreter} "$@"\n', owner)
    for name in ("pip", "pip3"):
        _program(root / "usr/local/bin" / name, f'#!/bin/sh\nexec {interpreter} -m pip "$@"\n', owner)
    return interpreter


def _program(place: Path, text: str, owner: int | None) -> None:
    place.write_text(text)
    place.chmod(0o755)
    if owner is not None:
        os.chown(place, owner, owner)


def _link_tree(source: Path, target: Path) -> None:
    for folder, folders, names in os.walk(source):
        here = target / os.path.relpath(folder, source)
        here.mkdir(exist_ok=True)
        status = os.stat(folder)
        os.chown(here, status.st_uid, status.st_gid)
        for name in (*names, *(each for each in folders if os.path.islink(os.path.join(folder, each)))):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                (here / name).symlink_to(os.readlink(path))
            else:
                os.link(path, here / name)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
