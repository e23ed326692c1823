"""Images as recipes: an immutable chain of steps that a server turns into layers."""

import functools
import os
import re
import sys
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self

from squall.model.errors import InvalidError
from squall.model.specs import ImageSpec, SourceFile, build_scope
from squall.runner import alias
from squall.sdk.client.dual_method import Dual, ThreadTwin, at_once
from squall.sdk.client.settings import environment_of
from squall.sdk.image import steps
from squall.sdk.image.packages import Packages
from squall.sdk.image.steps import AUTO_DOCKERIGNORE, Env, Recipe, Words
from squall.sdk.refusals import NotYet, refuse_given
from squall.sdk.source.patterns import NON_PYTHON_FILES, Ignore, as_predicate
from squall.sdk.source.sources import Local, LocalDirectory, LocalFile, LocalModule, Shipment, collect
from squall.sdk.storage.secret import Secret, check_variables

if TYPE_CHECKING:
    from squall.sdk.app.app import App
    from squall.sdk.client.client import Client

P = ParamSpec("P")

#: Variable of a container that holds the fingerprint of its image's recipe, so that `Image.imports` knows its own.
FINGERPRINT_VARIABLE = "SQUALL_IMAGE_RECIPE"

#: Where `Image.micromamba` begins; a fixed version, so that the same recipe gives the same layers.
MICROMAMBA = "docker.io/mambaorg/micromamba:1.5.8-bookworm-slim"

_PYTHON_VERSION = re.compile(r"3\.[0-9]{1,2}(\.[0-9]{1,2})?")


class Image(Packages):
    """A container image, described step by step. Every method returns a new image; nothing is built before an app runs.

    Local files are attached to containers at their start, which is quick and needs no build; with ``copy=True`` they become a layer, which later
    steps see.
    """

    logs, get_dashboard_url = NotYet(), NotYet()

    def __init__(self, recipe: tuple[Recipe, ...] = (), attached: tuple[Local, ...] = ()) -> None:
        self._steps = recipe
        self._attached = attached
        self._id: str | None = None
        self.build: Dual[..., Image, Coroutine[Any, Any, Image]] = Dual(self._build, self._build_aio)
        self.publish: Dual[..., None, Coroutine[Any, Any, None]] = Dual(self._publish, self._publish_aio)

    @classmethod
    def debian_slim(cls, python_version: str | None = None, force_build: bool = False) -> "Image":
        """Debian with Python.

        Args:
            python_version: ``"3.11"``; by default the minor version of the Python that runs this.
            force_build: build it again although it is there.

        Raises:
            InvalidError: not a version of Python 3.
        """
        version = _version("python_version", python_version) or f"{sys.version_info.major}.{sys.version_info.minor}"
        return cls((Recipe("debian_slim", {"python_version": version}, force=force_build),))

    @classmethod
    def from_scratch(cls, force_build: bool = False) -> "Image":
        """Nothing: for images whose files all come from later steps."""
        return cls((Recipe("from_scratch", force=force_build),))

    @classmethod
    def from_registry(
        cls,
        tag: str,
        secret: Secret | None = None,
        *,
        setup_dockerfile_commands: Sequence[str] = (),
        force_build: bool = False,
        add_python: str | None = None,
        **kwargs: Any,
    ) -> "Image":
        """An image of a registry. A tag is looked up once; `force_build` looks it up again.

        Args:
            tag: such as ``python:3.11-slim`` or ``registry.example.org/team/app:1``.
            secret: with ``REGISTRY_USERNAME`` and ``REGISTRY_PASSWORD``.
            setup_dockerfile_commands: lines of a Dockerfile that run first, before Python is added.
            add_python: version of a Python to put in, for an image that has none.

        Raises:
            InvalidError: not the name of an image, or not a version.
        """
        if kwargs:
            raise InvalidError(f"from_registry has no parameter {next(iter(kwargs))!r}")
        if not isinstance(tag, str) or not tag.strip():
            raise InvalidError(f"tag={tag!r} is not the name of an image, such as python:3.11-slim")
        args = {"tag": tag.strip(), "setup_dockerfile_commands": list(setup_dockerfile_commands), "add_python": _version("add_python", add_python)}
        return cls((Recipe("from_registry", args, force=force_build, secrets=(secret,) if secret is not None else ()),))

    @classmethod
    def from_gcp_artifact_registry(
        cls,
        tag: str,
        secret: Secret | None = None,
        *,
        setup_dockerfile_commands: Sequence[str] = (),
        force_build: bool = False,
        add_python: str | None = None,
        **options: Any,
    ) -> "Image":
        """`from_registry` with a secret that has ``SERVICE_ACCOUNT_JSON``."""
        return cls.from_registry(tag, secret, setup_dockerfile_commands=setup_dockerfile_commands, force_build=force_build, add_python=add_python, **options)

    @classmethod
    def from_aws_ecr(
        cls,
        tag: str,
        secret: Secret | None = None,
        *,
        setup_dockerfile_commands: Sequence[str] = (),
        force_build: bool = False,
        add_python: str | None = None,
        **options: Any,
    ) -> "Image":
        """`from_registry` with a secret that has ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``."""
        return cls.from_registry(tag, secret, setup_dockerfile_commands=setup_dockerfile_commands, force_build=force_build, add_python=add_python, **options)

    @classmethod
    def from_dockerfile(
        cls,
        path: str | Path,
        *,
        force_build: bool = False,
        context_dir: Path | str | None = None,
        ignore: Ignore | object = AUTO_DOCKERIGNORE,
        build_args: Mapping[str, str] = {},
        registry_secret: Secret | None = None,
        secrets: Collection[Secret] | None = None,
        env: Env = None,
        gpu: str | None = None,
        add_python: str | None = None,
        target: str | None = None,
    ) -> "Image":
        """What a local Dockerfile makes. Its lines become steps, with their own layers.

        Args:
            context_dir: what COPY takes files from; by default the Dockerfile's directory.
            secrets: in the environment of RUN lines.
            target: the stage to build; by default the last.
        """
        given = (*steps.secrets_of("from_dockerfile", secrets), *((registry_secret,) if registry_secret is not None else ()))
        args = {"build_args": check_variables("build_args", build_args), "add_python": _version("add_python", add_python), "target": target}
        more = steps.options("from_dockerfile", env, gpu)
        args["build_args"] |= more.pop("env", {})
        args |= more
        context = steps.local_path("context_dir", context_dir) if context_dir is not None else None
        late = steps.dockerfile(steps.local_path("path", path), context, ignore)  # type: ignore[arg-type]  # checked there
        return cls((Recipe("from_dockerfile", args, force=force_build, secrets=given, late=late),))

    @classmethod
    def micromamba(cls, python_version: str | None = None, force_build: bool = False) -> "Image":
        """Conda's Python, for `micromamba_install`."""
        version = _version("python_version", python_version) or f"{sys.version_info.major}.{sys.version_info.minor}"
        return cls((Recipe("micromamba", {"python_version": version, "tag": MICROMAMBA}, force=force_build),))

    @at_once
    def from_id(image_id: str, client: "Client | None" = None) -> "Image":
        """An image that was built, by its id.

        Raises:
            InvalidError: not an id.
        """
        if not isinstance(image_id, str) or not image_id.startswith("im-"):
            raise InvalidError(f"{image_id!r} is not the id of an image, which begins with im-")
        image = Image((Recipe("from_id", {"image": image_id}, client=client),))
        image._id = image_id
        return image

    @classmethod
    def from_name(cls, name: str, *, environment_name: str | None = None, client: "Client | None" = None) -> "Image":
        """An image that was published under a name, with its tag after a colon; without one it is ``latest``.

        Args:
            environment_name: where it was published; by default the environment of the app that runs in it.
        """
        if not isinstance(name, str) or not name:
            raise InvalidError(f"{name!r} is not the name of an image")
        return cls((Recipe("from_name", {"image": name, "environment": environment_name}, client=client),))

    def dockerfile_commands(
        self,
        *dockerfile_commands: Words,
        context_files: Mapping[str, str] = {},
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
        context_dir: Path | str | None = None,
        force_build: bool = False,
        ignore: Ignore | object = AUTO_DOCKERIGNORE,
        build_args: Mapping[str, str] = {},
    ) -> "Image":
        """Lines of a Dockerfile that go on from this image.

        Args:
            context_files: name in COPY -> local file.
            context_dir: what COPY takes its other files from; by default the current directory.

        Raises:
            InvalidError: a line is no instruction.
        """
        lines = steps.flatten("dockerfile_commands", dockerfile_commands)
        if not lines:
            return self
        context = steps.local_path("context_dir", context_dir) if context_dir is not None else None
        late = steps.dockerfile_lines(lines, context, context_files, ignore)  # type: ignore[arg-type]  # checked there
        args = {"commands": lines, "build_args": check_variables("build_args", build_args), **steps.options("dockerfile_commands", env, gpu)}
        if variables := args.pop("env", None):
            return self.env(variables)._building("dockerfile_commands", args, (), force_build, secrets, late)
        return self._building("dockerfile_commands", args, (), force_build, secrets, late)

    def run_function(
        self,
        raw_f: Callable[..., Any],
        *,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        volumes: Mapping[str | PurePosixPath, object] = {},
        network_file_systems: Mapping[str | PurePosixPath, object] = {},
        gpu: str | list[str] | None = None,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        timeout: int = 3600,
        cloud: str | None = None,
        region: str | Sequence[str] | None = None,
        force_build: bool = False,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] = {},
        include_source: bool = True,
    ) -> "Image":
        """Run a function while the image is built, and keep what it wrote. It runs again when its own text, its plain globals or its arguments change.

        Args:
            volumes: mounted while it runs; what it writes there is the volume's, not the image's.
            cpu: cores, and of a pair the second number is the most that it gets.
            memory: MiB, beyond which it is ended; of a pair the second number.
            timeout: seconds.
            gpu: as for functions: the device is the step's while it runs.
            cloud, region: a warning says that they have no effect.

        Raises:
            InvalidError: `raw_f` is not a plain function.
        """
        raw = getattr(raw_f, "_squall_raw", raw_f)
        if not callable(raw) or not hasattr(raw, "__code__"):
            raise InvalidError(f"run_function takes a function, not {raw_f!r}")
        steps.warn_of_no_effect(cloud=cloud, region=region)
        unaliased = {} if alias.wanted() else {alias.VARIABLE: "0"}
        more = steps.options("run_function", {**unaliased, **(env or {})}, gpu, network_file_systems=network_file_systems)
        known = {"qualname": raw.__qualname__, "timeout_s": steps.seconds(timeout), **steps.limits(cpu, memory), **more}
        late = steps.function_call(raw, args, kwargs, include_source)
        return self._building("run_function", known, (), force_build, secrets, late, steps.mounts(volumes))

    def run_commands(
        self,
        *commands: Words,
        env: Env = None,
        secrets: Collection[Secret] | None = None,
        volumes: Mapping[str | PurePosixPath, object] | None = None,
        gpu: str | None = None,
        force_build: bool = False,
    ) -> "Image":
        """Shell commands, run as root in the image's working directory. `volumes` are mounted meanwhile."""
        words = steps.flatten("run_commands", commands)
        args = {"commands": words, **steps.options("run_commands", env, gpu)}
        return self._building("run_commands", args, (), force_build, secrets, volumes=steps.mounts(volumes)) if words else self

    def env(self, vars: Mapping[str, str]) -> "Image":
        """Environment variables of later steps and of containers."""
        checked = check_variables("vars", vars)
        return self._with_step(Recipe("env", {"vars": checked})) if checked else self

    def workdir(self, path: str | PurePosixPath) -> "Image":
        """Working directory of later steps and of containers; an absolute path."""
        return self._with_step(Recipe("workdir", {"path": steps.absolute("path", path)}))

    def shell(self, shell_commands: list[str]) -> "Image":
        """The shell that runs later commands, as an argument list."""
        return self._with_step(Recipe("shell", {"argv": steps.argv("shell_commands", shell_commands)}))

    def entrypoint(self, entrypoint_commands: list[str]) -> "Image":
        """A program that starts the container's and has to execute its arguments. ``[]`` takes away the base image's."""
        return self._with_step(Recipe("entrypoint", {"argv": steps.argv("entrypoint_commands", entrypoint_commands)}))

    def cmd(self, cmd: list[str]) -> "Image":
        """The command that runs when none is given."""
        return self._with_step(Recipe("cmd", {"argv": steps.argv("cmd", cmd)}))

    def add_local_file(self, local_path: str | Path, remote_path: str, *, copy: bool = False) -> "Image":
        """A local file. A `remote_path` that ends with a slash is the directory that takes it."""
        local = steps.local_path("local_path", local_path)
        remote = steps.absolute("remote_path", remote_path)
        if str(remote_path).endswith("/"):
            remote = f"{remote.rstrip('/')}/{local.name}"
        return self._with_local("add_local_file", (LocalFile(local, remote),), copy)

    def add_local_dir(self, local_path: str | Path, remote_path: str, *, copy: bool = False, ignore: Ignore = ()) -> "Image":
        """The files of a local directory, without those that `ignore` matches (patterns as in ``.dockerignore``, or a function of the relative path)."""
        local = LocalDirectory(steps.local_path("local_path", local_path), steps.absolute("remote_path", remote_path), as_predicate("ignore", ignore))
        return self._with_local("add_local_dir", (local,), copy)

    def copy_local_file(self, local_path: str | Path, remote_path: str = "/root/") -> "Image":
        """Old spelling of ``add_local_file(copy=True)``."""
        _old("copy_local_file(...)", "add_local_file(..., copy=True)")
        return self.add_local_file(local_path, _below_root(remote_path), copy=True)

    def copy_local_dir(self, local_path: str | Path, remote_path: str = "/root", ignore: Ignore = ()) -> "Image":
        """Old spelling of ``add_local_dir(copy=True)``."""
        _old("copy_local_dir(...)", "add_local_dir(..., copy=True)")
        return self.add_local_dir(local_path, _below_root(remote_path), copy=True, ignore=ignore)

    def add_local_python_source(self, *modules: str, copy: bool = False, ignore: Ignore = NON_PYTHON_FILES) -> "Image":
        """Local modules and packages, by name, to be imported in the container."""
        predicate = as_predicate("ignore", ignore)
        for module in modules:
            if not isinstance(module, str) or not all(part.isidentifier() for part in module.split(".")):
                raise InvalidError(f"add_local_python_source: {module!r} is not the name of a module, as in an import statement")
        if not modules:
            return self
        return self._with_local("add_local_python_source", tuple(LocalModule(module, predicate) for module in modules), copy)

    def pipe(self, func: Callable[Concatenate["Image", P], "Image"], *args: P.args, **kwargs: P.kwargs) -> "Image":
        """``func(image, ...)``, for chains.

        Raises:
            InvalidError: `func` did not return an image.
        """
        image = func(self, *args, **kwargs)
        if not isinstance(image, Image):
            raise InvalidError(f"pipe: {getattr(func, '__name__', func)!r} returned {type(image).__name__}, not an Image")
        return image

    @contextmanager
    def imports(self) -> Iterator[None]:
        """For imports of packages that only this image has: elsewhere, an ImportError inside the block is left out."""
        from squall.sdk.context import is_local

        try:
            yield
        except ImportError:
            if not is_local() and os.environ.get(FINGERPRINT_VARIABLE, self._fingerprint) == self._fingerprint:
                raise

    @property
    def is_hydrated(self) -> bool:
        """Whether it is built: always so in a container, where it was built for the app, and here after `build`."""
        from squall.sdk.context import is_local

        return self._id is not None or not is_local()

    @property
    def object_id(self) -> str:
        """Its ``im-…`` id.

        Raises:
            InvalidError: it was not built by `build`.
        """
        if self._id is None:
            raise InvalidError(f"{self!r} has no id before image.build()")
        return self._id

    def _build(self, app: "App | None" = None, *, client: "Client | None" = None, force: bool = False) -> "Image":
        """Build it now, and wait. It has an `object_id` afterwards. Files that are attached when a container starts are no part of it.

        Args:
            app: the one that it is for: `run_function` and cache mounts of Dockerfiles are done for each app anew.

        Raises:
            ImageBuildError: a step failed.
        """
        from squall.sdk.client.client import Client
        from squall.sdk.output.output import current_sink
        from squall.wire.messages import BuildImage, Names

        server, shipment, sink = client or self._client or Client.default(), Shipment(), current_sink()
        environment = environment_of(None, "main")
        spec = self._spec(shipment, steps.ReferTo(server, environment))
        shipment.upload(server)
        scope = build_scope(environment, app.name if app is not None else None)
        answer = server.request(BuildImage(spec, force, scope), sink.event if sink is not None else None)
        assert isinstance(answer, Names)
        self._id = answer.names[0]
        return self

    async def _build_aio(self, app: "App | None" = None, *, client: "Client | None" = None, force: bool = False) -> "Image":
        import asyncio

        return await asyncio.to_thread(self._build, app, client=client, force=force)

    @ThreadTwin
    def hydrate(self, client: "Client | None" = None) -> "Image":
        """Know its id: an image of the server is looked up; itself.

        Raises:
            InvalidError: it is a recipe, whose id is known once it is built.
            NotFoundError: the server has no such image.
        """
        if self._id is None and (len(self._steps) != 1 or self._steps[0].kind not in ("from_name", "from_id")):
            raise InvalidError(f"{self!r} is not built yet: call its build(), or run an app that has it")
        return self._build(client=client)

    @property
    def client(self) -> "Client":
        """Of the server that has it, or will build it."""
        from squall.sdk.client.client import Client

        return self._client or Client.default()

    @property
    def _client(self) -> "Client | None":
        """Of the server that has its base; None: any."""
        return self._steps[0].client if self._steps else None

    def _publish(
        self, name: str, *, environment_name: str | None = None, experimental_options: dict[str, Any] | None = None, client: "Client | None" = None
    ) -> None:
        """Let ``Image.from_name(name)`` mean this image, which is built if need be.

        Args:
            environment_name: by default that of ``SQUALL_ENVIRONMENT`` or ``MODAL_ENVIRONMENT``, else ``main``.

        Raises:
            NotFoundError: there is no such environment.
            UnsupportedError: `experimental_options`.
            InvalidError: it can't be a name.
        """
        from squall.sdk.client.client import Client
        from squall.wire.messages import ImageRequest

        refuse_given("Image.publish", experimental_options=experimental_options)
        server = client or self._client or Client.default()
        if self._id is None:
            self._build(client=server)
        server.request(ImageRequest("publish", self.object_id, {"name": name, "environment": environment_of(environment_name)}))

    async def _publish_aio(self, name: str, **options: Any) -> None:
        import asyncio

        await asyncio.to_thread(self._publish, name, **options)

    def __repr__(self) -> str:
        return f"<Image {' › '.join(step.title for step in self._steps) or 'empty'}>"

    def _spec(self, shipment: Shipment, refer: steps.Refer = steps.NOWHERE) -> ImageSpec:
        """The recipe with the content of its local files, which `shipment` takes along, and its secrets and volumes as `refer` names them."""
        return ImageSpec(tuple(step.step(shipment, refer) for step in self._steps))

    def _attached_files(self, shipment: Shipment) -> tuple[SourceFile, ...]:
        """Local files that are laid over the image when a container starts."""
        return collect(self._attached, shipment)

    @functools.cached_property
    def _fingerprint(self) -> str:
        """Names the recipe without its local files: the same here and in a container, where they are not."""
        import hashlib
        import json

        return hashlib.sha256(json.dumps([(step.kind, step.args) for step in self._steps], sort_keys=True).encode()).hexdigest()[:16]

    def _with_step(self, step: Recipe) -> Self:
        if self._attached:
            raise InvalidError(
                f"{step.kind} comes after local files that are attached when the container starts, so it would not see them. "
                "Give copy=True to the add_local_... before it, or put that last."
            )
        if not self._steps:
            raise InvalidError(f"{step.kind} needs a base: start with Image.debian_slim()")
        return type(self)((*self._steps, step))

    def _building(
        self,
        kind: str,
        args: dict[str, Any],
        files: tuple[Local, ...],
        force: bool,
        secrets: Collection[Secret] | None,
        late: steps.Late | None = None,
        volumes: steps.Mounts = (),
    ) -> Self:
        return self._with_step(Recipe(kind, args, files, force, steps.secrets_of(kind, secrets), late, volumes))

    def _with_local(self, kind: str, files: tuple[Local, ...], copy: bool) -> "Image":
        return self._with_step(Recipe(kind, {}, files)) if copy else Image(self._steps, (*self._attached, *files))


def _version(parameter: str, version: str | None) -> str | None:
    if version is not None and (not isinstance(version, str) or _PYTHON_VERSION.fullmatch(version) is None):
        raise InvalidError(f'{parameter}={version!r} is not text of the form "3.11"')
    return version


def _old(old: str, new: str) -> None:
    import warnings

    from squall.model.errors import DeprecationError

    warnings.warn(f"Image.{old} is the old spelling of Image.{new}", DeprecationError, stacklevel=3)


def _below_root(path: str) -> str:
    """Old calls gave paths relative to the working directory."""
    return path if path.startswith("/") else f"/root/{path.removeprefix('./')}"
