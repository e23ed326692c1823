"""The base of `debian_slim`: a minimal Debian with Python, made by mmdebstrap from the host's own sources.

It behaves like the `python:X.Y-slim` of a registry: `python`, `python3` and `pip` are on the PATH, installing packages globally is not refused, documentation
is left out. No compiler is in it (it would double the size): `apt_install("build-essential")` adds one.
"""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from squall.images import apt
from squall.images.place import shift
from squall.images.recipe import DEBIAN_OF_PYTHON, DebianBase
from squall.images.settings import ImageSettings
from squall.model.errors import InvalidError
from squall.model.specs import ImageSpec, Step

#: Beside the minimal variant. python3-venv brings `ensurepip` and the wheel of pip; tzdata and netbase are in the registry's slim images too.
_PACKAGES = ("python3", "python3-venv", "ca-certificates", "netbase", "tzdata")
#: What the official slim images leave out (debuerreotype, .slimify-excludes). The settings stay in effect for later packages.
_EXCLUDED = ("usr/share/doc", "usr/share/info", "usr/share/linda", "usr/share/lintian/overrides", "usr/share/locale", "usr/share/man")
_DPKG_SETTINGS = (
    *(f"path-exclude=/{name}/*" for name in _EXCLUDED),
    "path-include=/usr/share/doc/*/copyright",
    "force-unsafe-io",  # half-written layers are never used, so dpkg need not wait for the disk
)
_VERSION = re.compile(r"3\.\d{1,2}(\.\d{1,2})?")
_LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")
#: Debian's Python keeps its interpreter at this place; it does not change with what later steps put into /usr/local.
INTERPRETER = "/usr/bin/python{version}"

#: The base's environment, in which commands and functions run.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}


def check(base: DebianBase) -> str:
    """The release of Debian that has the wanted Python.

    Raises:
        InvalidError: none has.
    """
    if base.release is None:
        raise InvalidError(f'debian_slim(python_version="{base.python_version}") is not available here; available are {available()}')
    return base.release


def available() -> str:
    """Versions of Python that can be had here, as errors list them."""
    return ", ".join(f'"{version}" (Debian {release})' for version, release in DEBIAN_OF_PYTHON.items())


def provide(spec: ImageSpec, settings: ImageSettings) -> ImageSpec:
    """The recipe with its `debian_slim` as it can be had: from the registry of the settings; a Debian with its own Python; or one over which uv's build of the
    wanted Python is put. With `python_fallback` the nearest that a Debian has takes the place of the last.
    """
    first = spec.steps[0] if spec.steps else None
    if first is None or first.kind != "debian_slim":
        return spec
    wanted = _wanted(first)
    if settings.registry:
        title = f"debian_slim python {wanted} of {settings.registry}"
        base = [Step("from_registry", {"tag": f"{settings.registry}/python:{wanted}-slim", "title": title}, force=first.force)]
    elif wanted in DEBIAN_OF_PYTHON or not _VERSION.fullmatch(wanted):
        return spec
    else:
        near = Step("debian_slim", {"python_version": nearest(wanted)}, force=first.force)
        title = f"debian_slim python {wanted}"
        base = [near] if settings.python_fallback == "nearest" else [near, Step("add_python", {"version": wanted, "title": title}, force=first.force)]
    return ImageSpec((*base, *spec.steps[1:]))


def note(spec: ImageSpec, settings: ImageSettings) -> str | None:
    """What a user has to be told of `provide`: that it took another Python than the recipe names."""
    first = spec.steps[0] if spec.steps else None
    if first is None or first.kind != "debian_slim" or settings.registry or settings.python_fallback != "nearest":
        return None
    wanted = _wanted(first)
    return f"no Python {wanted} can be had here; debian_slim has {nearest(wanted)} instead" if wanted not in DEBIAN_OF_PYTHON else None


def _wanted(step: Step) -> str:
    return str(step.args.get("python_version") or f"{sys.version_info.major}.{sys.version_info.minor}")


def nearest(wanted: str) -> str:
    """The version of Python that a Debian has and that is closest to the wanted one, the older of two."""
    minor = int(wanted.split(".")[1])
    return min(DEBIAN_OF_PYTHON, key=lambda version: (abs(int(version.split(".")[1]) - minor), version))


def command(base: DebianBase, target: Path) -> tuple[str, ...]:
    """The command that fills `target` (an empty directory).

    Raises:
        InvalidError: no Debian has this Python, mmdebstrap is not there, or this process is not root.
    """
    release = check(base)
    if shutil.which("mmdebstrap") is None:
        raise InvalidError("debian_slim is made by mmdebstrap, which is not installed here: apt install mmdebstrap")
    if os.geteuid() != 0:
        raise InvalidError("debian_slim can only be made by root; start the server as root, or use the process driver")
    options = ["--variant=minbase", "--mode=root", "--format=directory", f"--include={','.join(_PACKAGES)}", "--skip=output/dev", "--skip=check/empty"]
    # Not as --dpkgopt: that makes mmdebstrap filter its first extraction in Python, which takes 14 s. What that brings goes in `_finish`.
    settings = shlex.join(["printf", "%s\\n", *_DPKG_SETTINGS])
    options += [f'--setup-hook=mkdir -p "$1/etc/dpkg/dpkg.cfg.d" && {settings} > "$1/etc/dpkg/dpkg.cfg.d/squall"', '--aptopt=Acquire::Languages "none"']
    options += [f"--aptopt={line}" for line in apt.connection_options()]
    if certificates := sorted(_LOCAL_CERTIFICATES.glob("*.crt")):
        # Authorities that this machine trusts beside the public ones, as behind a company's proxy.
        names = shlex.join(str(path) for path in certificates)
        options += [f'--customize-hook=cp {names} "$1{_LOCAL_CERTIFICATES}/" && chroot "$1" update-ca-certificates']
    # With no source of the archive on this host, mmdebstrap takes its own default.
    sources = ["\n".join(source.line() for source in found)] if (found := apt.debian_sources(release)) else []
    # A mount and a pid namespace: whatever ends the server ends all of it, and no mount of the chroot is left.
    isolate = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private")
    return (*isolate, "mmdebstrap", *options, release, str(target), *sources)


async def make(base: DebianBase, target: Path, line: Callable[[str], None], *, owner: int | None) -> int:
    """Make the base in `target`; its files belong to `owner` + their own uid. Ends its processes when cancelled. Returns the exit code of mmdebstrap.

    Raises:
        InvalidError: see `command`.
    """
    environment = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")} | {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C.UTF-8",
        "HOME": "/root",
    }
    process = await asyncio.create_subprocess_exec(
        *command(base, target),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        limit=1 << 20,
    )
    assert process.stdout is not None
    try:
        async for raw in process.stdout:
            line(raw.decode(errors="replace").rstrip())
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()  # `unshare --kill-child` takes the rest along
            await process.wait()
    if code == 0:
        await asyncio.to_thread(_finish, base, target, owner)
    return code


def _finish(base: DebianBase, root: Path, owner: int | None) -> None:
    local = root / "usr/local/bin"
    local.mkdir(exist_ok=True, parents=True)
    for name in ("python", "python3"):
        (local / name).symlink_to(INTERPRETER.format(version=base.python_version))
    library = root / f"usr/lib/python{base.python_version}"
    (library / "EXTERNALLY-MANAGED").unlink(missing_ok=True)
    for wheel in (root / "usr/share/python-wheels").glob("pip-*.whl"):
        _install_pip(wheel, root, base.python_version)
    interpreter = INTERPRETER.format(version=base.python_version)
    subprocess.run(["chroot", root, interpreter, "-m", "compileall", "-q", f"/usr/local/lib/python{base.python_version}"], check=True, stdin=subprocess.DEVNULL)
    for name in _EXCLUDED:
        for path in sorted((root / name).rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.name != "copyright":
                path.unlink()
    # What mmdebstrap keeps of its options, proxies of this machine among them.
    (root / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
    (root / "etc/apt/apt.conf.d/squall").write_text('Acquire::Languages "none";\n')
    # Mount points of every container: being here, they are in no layer above.
    for name in ("hosts", "hostname", "resolv.conf"):
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).touch(mode=0o644)
    for pattern in (
        "var/lib/apt/lists/*",
        "var/cache/apt/*",
        "var/log/*.log",
        "var/log/apt",
        "dev/*",
        "var/cache/debconf/*-old",
        "var/cache/ldconfig/*",
        "run/*",
        "etc/machine-id",
    ):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (root / ".squall").mkdir(exist_ok=True)
    if owner is not None:
        shift(root, owner)


def _install_pip(wheel: Path, root: Path, version: str) -> None:
    """Unpack pip as its own wheel would be installed (PEP 427): pure Python, and two scripts."""
    packages = root / f"usr/local/lib/python{version}/dist-packages"
    packages.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    for name in ("pip", "pip3", f"pip{version}"):
        script = root / "usr/local/bin" / name
        script.write_text(f"#!{INTERPRETER.format(version=version)}\nimport sys\nfrom pip._internal.cli.main import main\nsys.exit(main())\n")
        script.chmod(0o755)
