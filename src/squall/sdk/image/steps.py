"""What stands behind `Image`'s methods: a step before its local files were looked at, and what is read of them when an app runs."""

import base64
import hashlib
import inspect
import os
import tomllib
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from squall.model.errors import InvalidError, UnsupportedError
from squall.model.specs import Step, VolumeMount, image_name
from squall.sdk.image.dockerfile import context_sources, parse
from squall.sdk.source.patterns import FilePatternMatcher, Ignore, as_predicate
from squall.sdk.source.sources import Local, LocalDirectory, LocalFile, Shipment, collect, module_files, module_name
from squall.sdk.storage.secret import Secret, check_variables, references

if TYPE_CHECKING:
    from squall.sdk.client.client import Client
    from squall.sdk.storage.volume import Volume

#: Where a build finds the requirement files of a step, and those of a build context. Their local names are no part of the recipe.
_REQUIREMENTS = "/.squall/requirements"
_CONTEXT = "/.squall/context"

Words = str | list[str]
Env = Mapping[str, str | None] | None
#: Volumes by the paths where they are mounted.
Mounts = tuple[tuple[str, "Volume"], ...]

#: Reads local files when an app runs: (arguments of the step, files that travel along).
Late = Callable[[Shipment], tuple[dict[str, Any], Sequence[Any]]]


class Refer:
    """How a server knows what a recipe names: secrets, whose values it is sent if need be, and volumes. This one is for those who only want to know what an
    image is: secrets are no part of that, and of volumes only where they are.
    """

    def check(self, what: str, client: "Client | None") -> None:
        """That the server of `client` is this one."""

    def published(self, name: str, environment: str | None) -> str:
        """What the recipe says of an image of this name in an environment; None: the one that is built for."""
        return image_name(name, environment or "")

    def secrets(self, secrets: tuple[Secret, ...]) -> tuple[str, ...]:
        return ()

    def volumes(self, volumes: Mounts) -> tuple[VolumeMount, ...]:
        return tuple(VolumeMount(path, "") for path, _ in volumes)


@dataclass(frozen=True, slots=True)
class ReferTo(Refer):
    """The things of one server (None: the default one), looked up there in an environment."""

    client: "Client | None" = None
    environment: str = ""

    def check(self, what: str, client: "Client | None") -> None:
        if client is not None:
            from squall.sdk.client.client import check_server

            check_server(f"Image.{what}", client, self.client)

    def published(self, name: str, environment: str | None) -> str:
        return image_name(name, environment or self.environment)

    def secrets(self, secrets: tuple[Secret, ...]) -> tuple[str, ...]:
        return references(self.client, secrets, self.environment)

    def volumes(self, volumes: Mounts) -> tuple[VolumeMount, ...]:
        if not volumes:
            return ()
        from squall.sdk.app.mounts import mount

        return mount(volumes, self.environment, self.client)


NOWHERE = Refer()


class _Auto:
    def __repr__(self) -> str:
        return "AUTO_DOCKERIGNORE"


#: The default of ``ignore=`` of Dockerfile methods: what `Dockerfile.dockerignore`, or else `.dockerignore`, says.
AUTO_DOCKERIGNORE = _Auto()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A step before its local files were looked at. `late` adds what is only known then."""

    kind: str
    args: dict[str, Any] = field(default_factory=dict)
    files: tuple[Local, ...] = ()
    force: bool = False
    secrets: tuple[Secret, ...] = ()
    late: Late | None = None
    volumes: Mounts = ()
    client: "Client | None" = None  # of the server that has the image that it begins with

    @property
    def title(self) -> str:
        words = next((value for name, value in self.args.items() if isinstance(value, list) and name != "gpu"), [])
        return " ".join([self.kind, *map(str, words)])

    def step(self, shipment: Shipment, refer: Refer) -> Step:
        """The step as it is built; `shipment` takes its files along.

        Raises:
            InvalidError: it begins with an image of another server.
        """
        refer.check(self.title, self.client)
        args, more = self.late(shipment) if self.late is not None else ({}, ())
        files = collect((*self.files, *more), shipment)
        if self.kind == "from_name":
            args = {"image": refer.published(self.args["image"], self.args["environment"])}
            return Step(self.kind, args)
        return Step(self.kind, {**self.args, **args}, files, refer.secrets(self.secrets), self.force, refer.volumes(self.volumes))


def options(method: str, env: Env = None, gpu: object = None, **refused: object) -> dict[str, Any]:
    """Arguments that every building step has.

    Raises:
        InvalidError: `env` is no mapping of text, `gpu` names no GPU.
        UnsupportedError: something in `refused` was given.
    """
    for name, value in refused.items():
        if value:
            raise UnsupportedError(f"{name}= of Image.{method} is not supported yet")
    found: dict[str, Any] = {}
    if env is not None and (checked := check_variables("env", env)):
        found["env"] = checked
    if gpu:
        from squall.sdk.app.checks import gpus

        try:
            found["gpu"] = [str(one) for one in gpus(gpu)]
        except InvalidError as error:
            raise InvalidError(f"Image.{method}: {error}") from None
    return found


def warn_of_no_effect(**parameters: object) -> None:
    """What chooses among a cloud's places: a warning, as for functions."""
    from squall.sdk.app import declarations

    declarations.warn_of_no_effect(parameters, 4)


def seconds(timeout: object) -> float:
    """
    Raises:
        InvalidError: not a positive number.
    """
    if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0 < timeout < 1e9:
        raise InvalidError(f"timeout={timeout!r} of Image.run_function is not a number of seconds above 0")
    return float(timeout)


def limits(cpu: object, memory: object) -> dict[str, Any]:
    """What ``cpu=`` and ``memory=`` bound. Nothing is reserved for a build step, so a single number of MiB is its limit.

    Raises:
        InvalidError: neither numbers nor pairs of them.
    """
    from squall.sdk.app.checks import resources

    found = resources(cpu, memory, None)
    memory_mib = found.memory_request_mib if memory is not None and found.memory_limit_mib is None else found.memory_limit_mib
    return {"cpu": found.cpu_limit, "memory_mib": memory_mib}


def mounts(volumes: object) -> Mounts:
    """
    Raises:
        InvalidError: not volumes by their paths.
        UnsupportedError: a bucket is among them.
    """
    if not volumes:
        return ()
    from squall.sdk.app.mounts import check_volumes
    from squall.sdk.storage.volume import Volume

    found = check_volumes("volumes", volumes)
    if (other := next((path for path, volume in found if not isinstance(volume, Volume)), None)) is not None:
        raise UnsupportedError(f"volumes: {other!r} is a bucket, which can't be mounted while an image is built; fetch what is needed from it in the function")
    return tuple((path, volume) for path, volume in found if isinstance(volume, Volume))


def secrets_of(method: str, secrets: Collection[Secret] | None) -> tuple[Secret, ...]:
    """
    Raises:
        InvalidError: not a list of secrets.
    """
    if secrets is None:
        return ()
    if not isinstance(secrets, Collection) or not all(isinstance(secret, Secret) for secret in secrets):
        raise InvalidError(f"secrets of Image.{method} is a list of squall.Secret")
    return tuple(secrets)


def flatten(method: str, groups: tuple[Words, ...]) -> list[str]:
    words: list[str] = []
    for group in groups:
        members = [group] if isinstance(group, str) else group
        if not isinstance(members, list | tuple) or not all(isinstance(member, str) and member.strip() for member in members):
            raise InvalidError(f"{method} takes text or lists of text, not {group!r}")
        words += members
    return words


def index_options(find_links: str | None, index_url: str | None, extra_index_url: str | None, pre: bool, extra_options: str) -> dict[str, Any]:
    return {"find_links": find_links, "index_url": index_url, "extra_index_url": extra_index_url, "pre": pre, "extra_options": extra_options}


def requirement_files(names: Sequence[str]) -> tuple[Local, ...]:
    return tuple(LocalFile(local_path("requirements", name), f"{_REQUIREMENTS}-{index}.txt") for index, name in enumerate(names))


def local_path(parameter: str, path: object) -> Path:
    """Absolute, by the directory that the program is in now.

    Raises:
        InvalidError: neither text nor a path.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise InvalidError(f"{parameter}={path!r} is not the path of a local file or directory")
    return Path(os.path.abspath(path))


def absolute(parameter: str, path: object) -> str:
    text = str(path)
    if not isinstance(path, str | PurePosixPath) or not text.startswith("/"):
        raise InvalidError(f"{parameter}={text!r} is not an absolute path in the container")
    return str(PurePosixPath(text))


def argv(parameter: str, words: object) -> list[str]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InvalidError(f"{parameter}={words!r} is not a list of text")
    return list(words)


# --- what is read when an app runs ------------------------------------------------------------------------------------------------------


def dockerfile(path: Path, context: Path | None, ignore: Ignore | _Auto) -> Late:
    """The text of a Dockerfile, and the files of its context that it takes."""

    def read(shipment: Shipment) -> tuple[dict[str, Any], Sequence[Any]]:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidError(f"Dockerfile {str(path)!r} can't be read: {getattr(error, 'strerror', None) or error}") from error
        return {"text": text}, context_files(text, context if context is not None else path.parent, ignore, path)

    return read


def dockerfile_lines(lines: list[str], context: Path | None, context_files_: Mapping[str, str], ignore: Ignore | _Auto) -> Late:
    """The files that some lines of a Dockerfile take from a context directory, and those named one by one."""

    def read(shipment: Shipment) -> tuple[dict[str, Any], Sequence[Any]]:
        single = [LocalFile(local_path("context_files", local), f"{_CONTEXT}/{name.lstrip('/')}") for name, local in context_files_.items()]
        text = "\n".join(lines)
        patterns = context_sources(parse(text, name="dockerfile_commands"))
        if patterns == () or (context is None and single):
            return {}, single
        return {}, [*context_files(text, context if context is not None else Path.cwd(), ignore, None), *single]

    return read


def context_files(text: str, context: Path, ignore: Ignore | _Auto, path: Path | None) -> list[Local]:
    patterns = context_sources(parse(text))
    if patterns == ():
        return []
    if not context.is_dir():
        raise InvalidError(f"context_dir={str(context)!r} is not a directory")
    leave = _dockerignore(context, path) if isinstance(ignore, _Auto) else as_predicate("ignore", ignore)
    wanted = None if patterns is None or any(pattern.strip("/") in ("", ".") for pattern in patterns) else FilePatternMatcher(*patterns)
    matcher = leave if wanted is None else lambda relative: leave(relative) or not wanted(relative)
    return [LocalDirectory(context, _CONTEXT, matcher)]


def pyproject(path: Path, extras: list[str]) -> Late:
    """The dependencies of a project, and of its extras."""

    def read(shipment: Shipment) -> tuple[dict[str, Any], Sequence[Any]]:
        try:
            project = tomllib.loads(path.read_text("utf-8")).get("project", {})
        except OSError as error:
            raise InvalidError(f"pyproject_toml={str(path)!r} can't be read: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidError(f"{str(path)!r} is not valid TOML: {error}") from error
        if "dependencies" not in project:
            raise InvalidError(f"{str(path)!r} has no [project] dependencies; for those of Poetry there is poetry_install_from_file")
        optional = project.get("optional-dependencies", {})
        if missing := [name for name in extras if name not in optional]:
            raise InvalidError(f"{str(path)!r} has no optional dependencies {', '.join(missing)}; it has {', '.join(optional) or 'none'}")
        return {"packages": [*project["dependencies"], *(package for name in extras for package in optional[name])]}, ()

    return read


def project_files(directory: Path, names: Mapping[str, bool], method: str) -> Late:
    """Files of a project by name; those that are needed must be there."""

    def read(shipment: Shipment) -> tuple[dict[str, Any], Sequence[Any]]:
        found: list[Local] = []
        for name, needed in names.items():
            if (directory / name).is_file():
                found.append(LocalFile(directory / name, f"/{name}"))
            elif needed:
                raise InvalidError(f"{method}: there is no {name} in {str(directory)!r}")
        return {}, found

    return read


def function_call(raw: Any, args: Sequence[Any], kwargs: Mapping[str, Any], include_source: bool) -> Late:
    """A function and what it is called with. Its own text and the plain global values that it names tell versions apart; the module around it does not."""

    def read(shipment: Shipment) -> tuple[dict[str, Any], Sequence[Any]]:
        from squall.wire.values import dump_arguments, dumps

        call = base64.b64encode(dump_arguments(tuple(args), dict(kwargs), raw.__name__)).decode()
        module = module_name(raw.__module__)
        if module is None or "<" in raw.__qualname__ or not include_source:
            pickled = base64.b64encode(dumps(raw, f"the function {raw.__name__}")).decode()
            return {"module": "", "function": pickled, "call": call, "fingerprint": fingerprint(raw)}, ()
        files = [_Ready(file) for file in module_files(raw.__module__, shipment)]
        return {"module": module, "function": "", "call": call, "fingerprint": fingerprint(raw)}, files

    return read


@dataclass(frozen=True, slots=True)
class _Ready:
    """A file that was looked at already."""

    file: Any

    def collect(self, shipment: Shipment) -> Iterable[Any]:
        yield self.file


def fingerprint(raw: Any) -> str:
    """Names this version of a function."""
    try:
        text = inspect.getsource(raw)
    except (OSError, TypeError):
        text = raw.__code__.co_code.hex()
    values = {name: repr(raw.__globals__[name]) for name in sorted(_names(raw.__code__)) if _is_plain(raw.__globals__.get(name, raw))}
    return hashlib.sha256(repr((text, values)).encode()).hexdigest()[:32]


def _names(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return value is None or isinstance(value, str | int | float | bool | bytes)


def _dockerignore(context: Path, path: Path | None) -> Callable[[Path], bool]:
    own = [path.with_name(f"{path.name}.dockerignore")] if path is not None else []
    for place in (*own, context / ".dockerignore"):
        if place.is_file():
            return FilePatternMatcher.from_file(place)
    return lambda relative: False
