"""What each step of a recipe means: one function a step, from its arguments to its title, its action, and the image's metadata afterwards."""

import platform
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from squall.images.recipe import (
    DEBIAN_OF_PYTHON,
    FILES,
    PYTHON,
    UV,
    AddPython,
    Command,
    DebianBase,
    Meaning,
    Metadata,
    Place,
    RegistryBase,
    Scratch,
    kind,
    with_env,
)
from squall.images.registry import check_reference
from squall.model.errors import InvalidError, UnsupportedError
from squall.model.specs import SourceFile, Step

#: A Debian package, with `=version`, `:architecture`, `/release`, or a trailing `-` or `+` as apt-get(8) allows. No leading dash: it would be an option.
_DEBIAN_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.\-]*(:[a-z0-9]+)?([=/][A-Za-z0-9.+:~\-]+)?[+\-]?")
_PYTHON_VERSION = re.compile(r"3\.\d{1,2}(\.\d{1,2})?")
_REPOSITORY = re.compile(r"[A-Za-z0-9.-]+/[\w./-]+(@[\w./-]+)?")
_VARIABLE = re.compile(r"[^=\0]+")


#: uv, then bytecode, without which every container would compile what it imports. uv would also compile the tests that packages carry along, which nobody
#: imports: for numpy and pandas they are more than half. A file that is no valid Python is no failure.
_INSTALL = (
    'uv=$1 python=$2; shift 2; "$uv" pip install --python "$python" --break-system-packages "$@" || exit $?; '
    '"$python" -c \'import compileall, re, sysconfig\n'
    'for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:\n'
    '    compileall.compile_dir(place, quiet=2, workers=0, rx=re.compile("/tests?/"))\' || true'
)


class Arguments:
    """The arguments of a step, taken one by one; what is left over at the end was not understood."""

    def __init__(self, step: Step) -> None:
        self._kind = step.kind
        # None, False and empty values are how the SDK says "not given".
        # The title is for people; GPUs are the same for all steps (`recipe.plan`).
        self._left = {name: value for name, value in step.args.items() if value not in (None, False, "", [], (), {}) and name not in ("title", "gpu")}

    def strings(self, name: str) -> tuple[str, ...]:
        """A string or a list of them, lists within lists flattened."""
        return tuple(self._flatten(name, self._left.pop(name, ())))

    def string(self, name: str) -> str | None:
        value = self._left.pop(name, None)
        if value is not None and not isinstance(value, str):
            raise InvalidError(f"{self._kind}: {name} must be a string, not {value!r}")
        return value

    def words(self, name: str) -> list[str]:
        """A string, split as a shell does."""
        try:
            return shlex.split(self.string(name) or "")
        except ValueError as error:
            raise InvalidError(f"{self._kind}: {name} can't be split into words: {str(error).lower()}") from error

    def flag(self, name: str) -> bool:
        return bool(self._left.pop(name, False))

    def variables(self, name: str) -> dict[str, str]:
        """A mapping from variable to value; those whose value is None are left out."""
        value = self._left.pop(name, {})
        if not isinstance(value, dict):
            raise InvalidError(f"{self._kind}: {name} must be a dict of strings, not {value!r}")
        for key, item in value.items():
            if not isinstance(key, str) or not _VARIABLE.fullmatch(key) or not isinstance(item, str | None) or "\0" in (item or ""):
                raise InvalidError(f"{self._kind}: {name} has {key!r}: {item!r}; names and values must be strings, and names without '='")
        return {key: item for key, item in value.items() if item is not None}

    def drop(self, *names: str) -> None:
        """Take arguments that have no effect on the layer."""
        for name in names:
            self._left.pop(name, None)

    def finish(self) -> None:
        """Raises: UnsupportedError: an argument was not taken."""
        if self._left:
            raise UnsupportedError(f"{self._kind}: {', '.join(sorted(self._left))} is not supported yet")

    def _flatten(self, name: str, value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        if isinstance(value, list | tuple):
            return [item for part in value for item in self._flatten(name, part)]
        raise InvalidError(f"{self._kind}: {name} must be strings, not {value!r}")


@kind("debian_slim", base=True)
def debian_slim(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    wanted = arguments.string("python_version") or f"{sys.version_info.major}.{sys.version_info.minor}"
    arguments.finish()
    if not _PYTHON_VERSION.fullmatch(wanted):
        raise InvalidError(f'debian_slim(python_version={wanted!r}) is not of the form "3.11"')
    return Meaning(f"debian_slim python {wanted}", metadata, DebianBase(DEBIAN_OF_PYTHON.get(wanted), wanted, platform.machine()))


@kind("from_registry", base=True)
def from_registry(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    reference = check_reference(arguments.string("tag") or "")
    arguments.finish()
    return Meaning(f"from_registry {reference}", metadata, RegistryBase(reference, platform.machine()))


@kind("from_scratch", base=True)
def from_scratch(step: Step, metadata: Metadata) -> Meaning:
    Arguments(step).finish()
    return Meaning("from_scratch", metadata, Scratch())


@kind("add_python")
def add_python(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    version = arguments.string("version") or ""
    arguments.finish()
    if not _PYTHON_VERSION.fullmatch(version):
        raise InvalidError(f'add_python={version!r} is not of the form "3.11"')
    return Meaning(f"add_python {version}", metadata, AddPython(version, platform.machine()))


@kind("apt_install")
def apt_install(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    packages, env = arguments.strings("packages"), arguments.variables("env")
    arguments.finish()
    for package in packages:
        if not _DEBIAN_PACKAGE.fullmatch(package):
            raise InvalidError(f"apt_install: {package!r} is not the name of a Debian package")
    if not packages:
        return Meaning("apt_install", metadata)
    # Lists and archives lie outside of the layer during the step (`workshop.py`), so nothing of them is left in it. Logs hold times, so they go.
    script = (
        'apt-get -q update && apt-get -qy -o Dpkg::Use-Pty=0 install --no-install-recommends -- "$@" '
        "&& rm -rf /var/cache/apt/*.bin /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/cache/ldconfig/aux-cache"
    )
    action = Command(("/bin/sh", "-c", script, "apt_install", *packages), {"DEBIAN_FRONTEND": "noninteractive", **env}, tool="apt")
    return Meaning(f"apt_install {' '.join(packages)}", metadata, action)


@kind("pip_install")
@kind("uv_pip_install")
@kind("pip_install_from_pyproject")
def pip_install(step: Step, metadata: Metadata) -> Meaning:
    return _python_packages(step, metadata)


@kind("pip_install_from_requirements")
def pip_install_from_requirements(step: Step, metadata: Metadata) -> Meaning:
    if not step.files:
        raise InvalidError("pip_install_from_requirements: the requirements file is missing")
    return _python_packages(step, metadata)


@kind("pip_install_private_repos")
def pip_install_private_repos(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    repositories, user, env, options = arguments.strings("repositories"), arguments.string("git_user") or "", arguments.variables("env"), _options(arguments)
    arguments.finish()
    for repository in repositories:
        if not _REPOSITORY.fullmatch(repository):
            raise InvalidError(f"pip_install_private_repos: {repository!r} is not of the form github.com/owner/repository@branch")
    # The token is in git's environment only. In the address it would end up in what pip notes about the package (direct_url.json, PEP 610).
    # GitHub's API, which uv would ask first, knows nothing of a private repository without it.
    script = (
        "uv=$1 python=$2 user=$3; shift 3; n=0; "
        'use() { export "GIT_CONFIG_KEY_$n=url.https://$user:$2@$1/.insteadOf" "GIT_CONFIG_VALUE_$n=https://$1/"; n=$((n+1)); }; '
        'if [ -n "$GITHUB_TOKEN" ]; then use github.com "$GITHUB_TOKEN"; fi; if [ -n "$GITLAB_TOKEN" ]; then use gitlab.com "$GITLAB_TOKEN"; fi; '
        'export GIT_CONFIG_COUNT=$n GIT_TERMINAL_PROMPT=0 UV_NO_GITHUB_FAST_PATH=1; exec "$uv" pip install --python "$python" --break-system-packages "$@"'
    )
    argv = ("/bin/sh", "-c", script, "private", UV, PYTHON, user, *options, "--", *(f"git+https://{repository}" for repository in repositories))
    return Meaning(f"pip_install_private_repos {' '.join(repositories)}", metadata, Command(argv, env, "uv"))


@kind("uv_sync")
def uv_sync(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    env, frozen = arguments.variables("env"), arguments.flag("frozen")
    words = [word for name in arguments.strings("groups") for word in ("--group", name)]
    words += [word for name in arguments.strings("extras") for word in ("--extra", name)]
    words += arguments.words("extra_options")
    words += ["--frozen"] if frozen else []
    arguments.string("uv_version")
    arguments.finish()
    files = _by_name(step)
    if "pyproject.toml" not in {file.path for file in files}:
        raise InvalidError("uv_sync: the project has no pyproject.toml")
    # What the lock file says goes into the image's own interpreter. `uv sync` itself would fetch from the addresses written in the lock, past the
    # indexes and mirrors of this machine; the hashes of the lock are checked either way.
    script = (
        'uv=$1 python=$2 files=$3; shift 3; cp -r "$files" "$TMPDIR/project" && cd "$TMPDIR/project" && '
        '"$uv" export -q --python "$python" --no-emit-workspace --format requirements-txt -o requirements.txt "$@" && '
        'exec "$uv" pip install --python "$python" --break-system-packages --no-deps --requirements requirements.txt'
    )
    return Meaning("uv_sync", metadata, Command(("/bin/sh", "-c", script, "uv_sync", UV, PYTHON, FILES, *words), env, "uv", files))


@kind("poetry_install_from_file")
def poetry_install_from_file(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    env, ignore_lock = arguments.variables("env"), arguments.flag("ignore_lockfile")
    version = arguments.string("poetry_version") or "latest"
    words: list[str] = []
    for name, option in (("with", "--with"), ("without", "--without"), ("only", "--only")):
        if groups := arguments.strings(name):
            words += [option, ",".join(groups)]
    arguments.flag("old_installer")
    arguments.finish()
    files = _by_name(step)
    names = {file.path for file in files}
    if "poetry.lock" not in names and not ignore_lock:
        raise InvalidError("poetry_install_from_file: there is no poetry.lock beside the pyproject.toml; write ignore_lockfile=True to do without")
    poetry = "poetry" if version == "latest" else f"poetry=={version}"
    lock = "rm -f poetry.lock && $run lock && " if ignore_lock else ""
    script = (
        'uv=$1 python=$2 files=$3 poetry=$4; shift 4; cp -r "$files" "$TMPDIR/project" && cd "$TMPDIR/project" && '
        'export UV_TOOL_DIR="$TMPDIR/tools" HOME="$TMPDIR"; with="--with poetry-plugin-export"; '
        # Poetry knows no setting for another index than PyPI; this plugin of its gives it that of this machine.
        'case "$UV_DEFAULT_INDEX" in http*) with="$with --with poetry-plugin-pypi-mirror"; export POETRY_PYPI_MIRROR_URL="$UV_DEFAULT_INDEX";; esac; '
        'run="$uv tool run --python $python --from $poetry $with poetry -n" && '
        f'{lock}$run export --format requirements.txt --output requirements.txt "$@" && '
        'exec "$uv" pip install --python "$python" --break-system-packages --no-deps --requirements requirements.txt'
    )
    argv = ("/bin/sh", "-c", script, "poetry", UV, PYTHON, FILES, poetry, *words)
    return Meaning("poetry_install_from_file", metadata, Command(argv, env, "uv", files))


@kind("micromamba_install")
def micromamba_install(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    packages, channels, env = arguments.strings("packages"), arguments.strings("channels"), arguments.variables("env")
    arguments.finish()
    words = [*packages, *(f"--channel={name}" for name in channels)]
    files = _by_name(step)
    words += [word for file in files for word in ("--file", f"{FILES}/{file.path}")]
    if not packages and not files:
        return Meaning("micromamba_install", metadata)
    what = " ".join(packages or ("from a file",))
    return Meaning(f"micromamba_install {what}", metadata, Command(("micromamba", "install", "--yes", "--name", "base", *words), env, "mamba", files))


@kind("run_function")
def run_function(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    module, qualname, fingerprint = arguments.string("module") or "", arguments.string("qualname") or "", arguments.string("fingerprint") or ""
    texts = {"call": arguments.string("call") or "", "function": arguments.string("function") or ""}
    env, timeout = arguments.variables("env"), step.args.get("timeout_s")
    memory, cpu = step.args.get("memory_mib"), step.args.get("cpu")
    arguments.drop("timeout_s", "cpu", "memory_mib")
    arguments.finish()
    script = (Path(__file__).with_name("call.py")).read_text()
    source = tuple(SourceFile(file.path.lstrip("/"), file.digest, file.size) for file in step.files)
    action = Command(
        (PYTHON, "-c", script, FILES, module, qualname, fingerprint), env, unkeyed=source, library=True, texts=tuple(texts.items()),
        timeout_s=float(timeout) if timeout else None, memory_mib=int(memory) if memory else None, cpu=float(cpu) if cpu else None, mounts=_mounts(step),
    )  # fmt: skip
    return Meaning(f"run_function {qualname}", metadata, action)


@kind("run_commands")
def run_commands(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    commands, env = arguments.strings("commands"), arguments.variables("env")
    arguments.finish()
    if not commands:
        return Meaning("run_commands", metadata)
    # Each command in a shell of its own, as lines of a Dockerfile: a `cd` or a variable does not reach the next.
    script = f'for command; do printf "+ %s\\n" "$command"; {shlex.join(metadata.shell)} "$command" || exit $?; done'
    return Meaning(f"run_commands {_short(commands)}", metadata, Command(("/bin/sh", "-c", script, "run_commands", *commands), env, mounts=_mounts(step)))


@kind("add_local_file")
@kind("add_local_dir")
@kind("add_local_python_source")
def add_local(step: Step, metadata: Metadata) -> Meaning:
    # Which local path it was is not looked at: the files say where they go and what is in them.
    count = len(step.files)
    title = f"{step.kind} {step.files[0].path}" if count == 1 else f"{step.kind} {count} files"
    files = tuple(sorted(step.files, key=lambda file: file.path))
    return Meaning(title, metadata, Place(files) if files else None)


@kind("env")
def env(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    # An empty mapping, or a variable set to the empty string, is as good as any.
    variables = arguments.variables("vars")
    arguments.finish()
    return Meaning(f"env {' '.join(variables)}", with_env(metadata, variables))


@kind("workdir")
def workdir(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    path = arguments.string("path") or ""
    arguments.finish()
    if not path or "\0" in path:
        raise InvalidError("workdir: the path is empty")
    # As in a Dockerfile, a relative path is taken from the directory before it.
    path = path if path.startswith("/") else f"{(metadata.workdir or '/root').rstrip('/')}/{path}"
    return Meaning(f"workdir {path}", replace(metadata, workdir=path))


@kind("shell")
def shell(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    words = arguments.strings("argv")
    arguments.finish()
    if not words:
        raise InvalidError('shell: give the program and its option, for example ["/bin/bash", "-c"]')
    return Meaning(f"shell {shlex.join(words)}", replace(metadata, shell=words))


@kind("entrypoint")
def entrypoint(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    words = arguments.strings("argv")
    arguments.finish()
    return Meaning(f"entrypoint {shlex.join(words)}", replace(metadata, entrypoint=words))


@kind("cmd")
def cmd(step: Step, metadata: Metadata) -> Meaning:
    arguments = Arguments(step)
    words = arguments.strings("argv")
    arguments.finish()
    return Meaning(f"cmd {shlex.join(words)}", replace(metadata, cmd=words))


def _python_packages(step: Step, metadata: Metadata) -> Meaning:
    """`uv pip install` into the interpreter of the image, for every step that means this."""
    arguments = Arguments(step)
    packages, env = arguments.strings("packages"), arguments.variables("env")
    options = _options(arguments)
    # Local names of requirement files are only for people; the contents come with `files`.
    arguments.strings("requirements")
    arguments.strings("requirements_txt")
    arguments.string("uv_version")
    arguments.finish()
    for package in packages:
        if package.startswith("-") or not package.strip():
            raise InvalidError(f"{step.kind}: {package!r} is not a package; options go into extra_options")
    files = tuple(SourceFile(f"{number}.txt", file.digest, file.size) for number, file in enumerate(step.files))
    if not packages and not files:
        return Meaning(step.kind, metadata)
    for file in files:
        options += ["--requirements", f"{FILES}/{file.path}"]
    argv = ("/bin/sh", "-c", _INSTALL, step.kind, UV, PYTHON, *options, "--", *packages)
    what = [*packages, *(file.path.rsplit("/", 1)[-1] for file in step.files)]
    return Meaning(f"{step.kind} {' '.join(what)}", metadata, Command(argv, {"UV_COMPILE_BYTECODE": "0", **env}, "uv", files))


def _options(arguments: Arguments) -> list[str]:
    """What the pip steps say about indexes, as options of uv."""
    options: list[str] = []
    for name, option in (("find_links", "--find-links"), ("index_url", "--default-index"), ("extra_index_url", "--index")):
        for value in arguments.strings(name):
            options += [option, value]
    if arguments.flag("pre"):
        options.append("--prerelease=allow")
    return options + arguments.words("extra_options")


def _by_name(step: Step) -> tuple[SourceFile, ...]:
    """Files of a step by their last names only."""
    return tuple(SourceFile(file.path.rsplit("/", 1)[-1], file.digest, file.size) for file in step.files)


def _mounts(step: Step) -> tuple[str, ...]:
    return tuple(sorted(mount.path for mount in step.volumes))


def _short(commands: tuple[str, ...]) -> str:
    first = commands[0].strip().splitlines()[0] if commands[0].strip() else ""
    first = first if len(first) <= 60 else f"{first[:59]}…"
    return first if len(commands) == 1 else f"{first} (and {len(commands) - 1} more)"
