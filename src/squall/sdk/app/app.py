"""App: the functions, images and entrypoints that belong together, declared by decorators."""

import inspect
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial as bound
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Protocol, TypeVar, Unpack, cast, dataclass_transform, overload

from squall.model.errors import DeprecationError, ExecutionError, InvalidError
from squall.runner.context import here
from squall.sdk.app.declaration_checks import check_entrypoint, check_function, check_name, home, interactive, is_app_id
from squall.sdk.app.declarations import Declaration, declare
from squall.sdk.app.decorators import Partial, method_spec
from squall.sdk.app.deploy import deploy, deploy_aio, find, stop, stop_aio
from squall.sdk.app.entrypoint import LocalEntrypoint
from squall.sdk.app.function_parameters import ClassParameters, FunctionParameters, Takes, check_secrets, defaults, described, split
from squall.sdk.app.mounts import check_volumes
from squall.sdk.app.run import AppRun
from squall.sdk.client.dual_method import Dual, in_thread
from squall.sdk.context import is_local
from squall.sdk.function.cls import Cls, check_class
from squall.sdk.function.function import Function
from squall.sdk.function.parameters import parameter
from squall.sdk.image.image import Image
from squall.sdk.refusals import NotYet, refuse_given
from squall.sdk.storage.secret import Secret, check_variables

if TYPE_CHECKING:
    from squall.sdk.app.server import Server
    from squall.sdk.client.client import Client
    from squall.sdk.function.logs import Logs

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class FunctionDecorator(Protocol):
    """What `@app.function(...)` returns: calls of an async function give what it returns, not its coroutine."""

    @overload
    def __call__(self, raw: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, raw: Callable[P, R], /) -> Function[P, R, R]: ...


class App:
    """Functions that run together.

    Args:
        name: letters, digits, ``-``, ``.``, ``_``, fewer than 64.
        tags: not supported yet.
        image: of functions that name none.
        secrets: of all functions; their own come later and win.
        volumes: of all functions, by path; a function's own win.
        include_source: whether the file or package that defines a function goes along to its containers.

    Raises:
        InvalidError: naming the parameter.
        UnsupportedError: `tags`.
    """

    _made: ClassVar["weakref.WeakSet[App]"] = weakref.WeakSet()
    info, stats, sandboxes = NotYet(), NotYet(), NotYet()
    get_tags, set_tags, get_dashboard_url = NotYet(), NotYet(), NotYet()

    def __init__(
        self,
        name: str | None = None,
        *,
        tags: Mapping[str, str] | None = None,
        image: Image | None = None,
        secrets: Sequence[Secret] = (),
        volumes: Mapping[str | PurePosixPath, object] = {},
        include_source: bool = True,
    ) -> None:
        if name is not None:
            check_name("name", name)
        if image is not None and not isinstance(image, Image):
            raise InvalidError(f"image={image!r} is not a squall.Image")
        if not isinstance(include_source, bool):
            raise InvalidError(f"include_source={include_source!r} is not True or False")
        self._name, self._image, self._include_source = name, image, include_source
        if tags is not None:
            refuse_given("App", tags=check_variables("tags", tags))
        self._secrets = check_secrets(secrets)
        self._volumes = check_volumes("volumes", volumes)
        self._declared: dict[str, tuple[Function[..., Any, Any] | Cls, Declaration]] = {}
        self._entrypoints: dict[str, LocalEntrypoint[..., Any]] = {}
        self._running: AppRun | None = None
        self._app_id: str | None = None
        #: Of the server where it runs, or was looked up; None: the default one.
        self._client: Client | None = None
        self._made.add(self)
        #: ``with app.run():``, ``async with app.run():``; `app.run.aio(...)` is the same for the second.
        self.run = Dual(self._run, self._run)
        #: ``app.deploy()``, ``await app.deploy.aio()``: see `squall.sdk.app.deploy.deploy`.
        self.deploy: Dual[..., App, Coroutine[Any, Any, App]] = Dual(bound(deploy, self), bound(deploy_aio, self))

    @property
    def name(self) -> str | None:
        """The name that the user gave."""
        return self._name

    @property
    def description(self) -> str:
        """The name, else the script's."""
        if self._name is not None:
            return self._name
        return " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:]])[:120] if sys.argv else "python"

    @property
    def logs(self) -> "Logs":
        """``logs.tail()``, ``logs.fetch(since=...)``, ``logs.stream()``: what its containers wrote.

        Raises:
            ExecutionError: it does not run, and was not looked up.
        """
        from squall.sdk.client.client import Client
        from squall.sdk.client.sync_async import known
        from squall.sdk.function.logs import Logs, Where

        if self._app_id is None:
            raise ExecutionError(f"{self!r} does not run, and was not looked up: squall.App.lookup(name).logs")
        return Logs(self._client or Client.default(), known(Where(self._app_id, self._app_id)))

    def is_inside(self, image: "Image | None" = None) -> bool:
        """Old spelling of ``not squall.is_local()``. With an image: whether that one runs here."""
        warnings.warn("App.is_inside() is the old spelling of  not squall.is_local()", DeprecationError, stacklevel=2)
        return not is_local() and (image is None or image.object_id == here.image)

    @property
    def app_id(self) -> str | None:
        """The ``ap-…`` id while it runs."""
        return self._app_id

    @property
    def image(self) -> Image:
        """Old: the image of functions that name none."""
        warnings.warn("app.image is the old spelling; keep the image in a variable of its own", DeprecationError, stacklevel=2)
        return self._image if self._image is not None else Image.debian_slim()

    @image.setter
    def image(self, image: Image) -> None:
        warnings.warn("app.image = ... is the old spelling of App(image=...)", DeprecationError, stacklevel=2)
        if not isinstance(image, Image):
            raise InvalidError(f"image={image!r} is not a squall.Image")
        self._image = image

    @property
    def registered_functions(self) -> dict[str, Function[..., Any, Any]]:
        """Functions by tag."""
        return {tag: function for tag, (function, _) in self._declared.items() if isinstance(function, Function)}

    @property
    def registered_classes(self) -> dict[str, Cls]:
        """Classes by tag."""
        return {tag: cls for tag, (cls, _) in self._declared.items() if isinstance(cls, Cls)}

    @property
    def registered_entrypoints(self) -> dict[str, LocalEntrypoint[..., Any]]:
        """Local entrypoints by name."""
        return dict(self._entrypoints)

    @described(Takes.FUNCTION)
    def function(self, **parameters: Unpack[FunctionParameters]) -> FunctionDecorator:
        """Make a function of this app, to run in containers of its own.

        Raises:
            InvalidError: naming the parameter and what to write instead.
            UnsupportedError: a parameter that would have an effect which is not built yet.
        """
        known = defaults(Takes.FUNCTION)
        given, unknown = split(parameters, known)
        p = {**known, **given}
        declaration, name = declare(p, unknown, stacklevel=3), p["name"]
        if name is not None:
            check_name("name", name)

        def decorate(raw: Any) -> Function[..., Any, Any]:
            return self._register(raw, declaration, name, p["serialized"], p["is_generator"])

        return cast(FunctionDecorator, decorate)

    @dataclass_transform(field_specifiers=(parameter,), kw_only_default=True)
    @described(Takes.CLASS)
    def cls(self, **parameters: Unpack[ClassParameters]) -> Callable[[type[C]], type[C]]:
        """Make a class of this app, whose methods run in containers that they share.

        Methods are marked with `@squall.method()`, what runs at a container's start and end with `@squall.enter()` and `@squall.exit()`, parameters
        with `squall.parameter()`. The parameters of this decorator are those of `function`; `min_containers` is of the object with all defaults.

        Raises:
            InvalidError: naming the parameter, or what is wrong with the class, and what to write instead.
            UnsupportedError: a parameter that would have an effect which is not built yet.
        """
        return self._class_decorator(*split(parameters, defaults(Takes.CLASS)), "@app.cls", 4)

    def _class_decorator(
        self, parameters: Mapping[str, Any], unknown: Mapping[str, Any], what: str, stacklevel: int, name: str | None = None
    ) -> Callable[[type], Any]:
        """What `cls` and `server` return; `what` is their name in messages, `stacklevel` that of the user's line, `name` the class's in the app."""
        p = {**defaults(Takes.CLASS), **parameters}
        declaration = declare(p, unknown, stacklevel=stacklevel, what=what)

        def decorate(raw: Any) -> Any:
            return self._register_class(raw, declaration, p["serialized"], what, name)

        return decorate

    def server(
        self,
        *,
        image: Image | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | Sequence[str] | None = None,
        serialized: bool = False,
        volumes: Mapping[str | PurePosixPath, object] = {},
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        ephemeral_disk: int | None = None,
        target_concurrency: float | None = None,
        max_concurrency: int | None = None,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaleup_window: float | None = None,
        scaledown_window: float | None = None,
        startup_timeout: float = 30,
        name: str | None = None,
        port: int = 8000,
        unauthenticated: bool = False,
        h2_enabled: bool = False,
        exit_grace_period: float = 0,
        routing_region: str = "us-east",
        compute_region: str | Sequence[str] | None = None,
        cloud: str | None = None,
        nonpreemptible: bool = False,
        proxy: object | None = None,
        i6pn: bool | None = None,
        enable_memory_snapshot: bool = False,
        include_source: bool | None = None,
        experimental_options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> "Callable[[type], Server]":
        """Make a class a server: its `@squall.enter()` method starts something that listens on a port of the container, and requests go there as they are.

        Args:
            target_concurrency, max_concurrency: requests at a time in one container: when another is started, and at most.
            startup_timeout: seconds after a container's start until something listens on the port.
            name: of the server in the app, instead of its class's.
            port: that it listens on.
            unauthenticated: anybody may send requests; else they need a proxy token.
            exit_grace_period: seconds, 0 to 3600, for requests in flight when a container ends. They always have as long as they need where it is
                scaled down or replaced by a new version; when the app is stopped they end.
            routing_region, compute_region, cloud, scaleup_window, experimental_options: accepted, with a warning that they have no effect.
            h2_enabled, proxy, i6pn: known, not supported yet.
            more: what else `cls` takes, such as `runtime` or `max_pending`. All other parameters are those of `cls`.

        Raises:
            InvalidError, UnsupportedError: naming the parameter.
        """
        from squall.sdk.app.server import server

        parameters = {key: value for key, value in locals().items() if key not in ("self", "more", "server")}
        return server(self, {**parameters, **more})

    def local_entrypoint(self, *, name: str | None = None) -> Callable[[Callable[P, R]], LocalEntrypoint[P, R]]:
        """Make a function the program's beginning: `squall run` starts the app and calls it here, with flags made from its type hints."""
        if name is not None and not isinstance(name, str):
            raise InvalidError("@app.local_entrypoint needs its parentheses: @app.local_entrypoint()")

        def decorate(raw: Callable[P, R]) -> LocalEntrypoint[P, R]:
            check_entrypoint(raw)
            tag = name or raw.__qualname__
            if tag in self._entrypoints and not interactive(raw):
                warnings.warn(f"local entrypoint {tag!r} is declared twice; the later one counts", UserWarning, stacklevel=2)
            entrypoint: LocalEntrypoint[P, R] = LocalEntrypoint(raw, self, tag)
            self._entrypoints[tag] = entrypoint
            return entrypoint

        return decorate

    def include(self, other_app: "App", inherit_tags: bool = True) -> "App":
        """Take the functions of another app into this one. A function of the same tag is replaced, with a warning.

        Args:
            inherit_tags: take its tags too; no app has any yet.
        """
        if not isinstance(inherit_tags, bool):
            raise InvalidError(f"inherit_tags={inherit_tags!r} is not True or False")
        if not isinstance(other_app, App):
            raise InvalidError(f"include takes a squall.App, not {other_app!r}")
        for tag, declared in other_app._declared.items():
            if tag in self._declared and self._declared[tag][0] is not declared[0]:
                warnings.warn(f"function {tag!r} is in both apps; the included one counts", UserWarning, stacklevel=2)
            self._declared[tag] = _with_defaults_of(other_app, declared)
        return self

    def __repr__(self) -> str:
        return f"<App {self._name or self.description}{f' {self._app_id}' if self._app_id else ''}>"

    @classmethod
    def _get_container_app(cls) -> "App | None":
        """The app of this container, None elsewhere. The reference has it under this name, and programs ask for it."""
        if is_local():
            return None
        return next((app for app in cls._made if any(function._handle.known() is not None for function, _ in app._declared.values())), None)

    def __reduce__(self) -> tuple[type["App"], tuple[str | None]]:
        return App, (self._name,)  # a serialized function may mention its app; the declarations stay here

    @in_thread
    def lookup(name: str, *, client: "Client | None" = None, environment_name: str | None = None, create_if_missing: bool = False) -> "App":
        """A deployed app, by its name or id; its functions are taken by `Function.from_name`.

        Raises:
            InvalidError: `name` can be none.
            NotFoundError: there is none, and `create_if_missing` is not set.
        """
        if not is_app_id(name):
            check_name("name", name)
        found = find(name, environment=environment_name, client=client, create=create_if_missing)
        return App._of(found.app, found.name, client)

    @classmethod
    def _of(cls, app_id: str, name: str | None, client: "Client | None") -> "App":
        """A handle of an app that the server has."""
        app = App(name or None)
        app._app_id, app._client = app_id, client
        return app

    @property
    def stop(self) -> Dual[..., None, Coroutine[Any, Any, None]]:
        """End it: its containers, and with a deployed app its schedules and addresses. Raises ExecutionError when it neither runs nor was looked up."""
        return Dual(bound(stop, self), bound(stop_aio, self))

    @property
    def registered_web_endpoints(self) -> list[str]:
        """Names of the web functions; of methods as ``Class.method``."""
        return [
            f"{tag}.{method.name}" if method.name else tag for tag, (target, _) in self._declared.items() for method in target._specs if method.web is not None
        ]

    def _run(
        self, *, name: str | None = None, client: "Client | None" = None, detach: bool = False, interactive: bool = False, environment_name: str | None = None
    ) -> AppRun:
        """Run the app while the block runs.

        Args:
            name: shown instead of the app's own.
            client: by default the one of this process.
            detach: what was spawned goes on after the block.
            interactive: not supported yet.
            environment_name: by default that of ``SQUALL_ENVIRONMENT`` or ``MODAL_ENVIRONMENT``, else ``main``.
        """
        if name is not None:
            check_name("name", name)
        return AppRun(self, name=name, client=client, detach=detach, interactive=interactive, environment=environment_name)

    def _register(self, raw: Any, declaration: Declaration, name: str | None, serialized: bool, is_generator: bool | None) -> Function[..., Any, Any]:
        partial, raw = (raw, raw.raw) if isinstance(raw, Partial) else (None, raw)
        check_function(raw, partial)
        module, serialized = home(raw, serialized, "@app.function")
        if "<lambda>" in raw.__qualname__ and name is None:
            raise InvalidError("a lambda has no name: give name= (and serialized=True)")
        tag = name or (raw.__name__ if serialized else raw.__qualname__)
        method = method_spec(raw, is_generator, batching=partial.batching if partial is not None else None, web=partial.web if partial is not None else None)
        if declaration.retries is not None and method.web is not None:
            raise InvalidError(f"retries= of {tag!r}: a web function's requests are not tried again; who sent one may send it again")
        if declaration.schedule is not None and (method.web is not None or method.is_generator):
            raise InvalidError(f"schedule= of {tag!r}: {'a web function' if method.web is not None else 'a generator'} can't run by a schedule")
        if declaration.schedule is not None:
            _check_callable_alone(raw, tag)
        if declaration.retries is not None and declaration.retries.max_retries and method.is_generator:
            raise InvalidError(f"retries= of {tag!r}: a generator can't be tried again after it gave items")
        function: Function[..., Any, Any] = Function(raw, app=self, tag=tag, method=method, module=module, serialized=serialized)
        function._not_yet = () if partial is None else partial.not_yet()
        self._declare(tag, function, _with_concurrency(declaration, partial, tag), "function", raw)
        return function

    def _register_class(self, raw: Any, declaration: Declaration, serialized: bool, what: str, name: str | None) -> Cls:
        partial = raw if isinstance(raw, Partial) else None
        raw = check_class(raw)
        module, serialized = home(raw, serialized, what)
        tag = name or (raw.__name__ if serialized else raw.__qualname__)
        cls = Cls(raw, app=self, tag=tag, module=module, serialized=serialized)
        if declaration.retries is not None and declaration.retries.max_retries and (generators := [one.name for one in cls._specs if one.is_generator]):
            raise InvalidError(f"retries= of {tag!r}: its method {generators[0]!r} is a generator, which can't be tried again after it gave items")
        self._declare(tag, cls, _with_concurrency(declaration, partial, tag), "class", raw)
        return cls

    def _declare(self, tag: str, target: Function[..., Any, Any] | Cls, declaration: Declaration, what: str, raw: Any) -> None:
        if tag in self._declared and not interactive(raw):
            warnings.warn(f"{what} {tag!r} is declared twice in {self!r}; the later one counts", UserWarning, stacklevel=4)
        self._declared[tag] = (target, declaration)

    def _bind(self, client: "Client", app_id: str, functions: Mapping[str, str]) -> None:
        """The app runs: its functions can be called."""
        self._app_id, self._client = app_id, client
        for tag, function_id in functions.items():
            if tag in self._declared:
                self._declared[tag][0]._handle.bind(client, function_id)

    def _unbind(self) -> None:
        self._app_id = self._client = None
        for target, _ in self._declared.values():
            target._handle.unbind()


def _with_concurrency(declaration: Declaration, partial: Partial | None, tag: str) -> Declaration:
    """The declaration with what `@squall.concurrent` below it says."""
    if partial is None or partial.concurrency is None:
        return declaration
    if declaration.concurrency is not None:
        raise InvalidError(f"{tag} has both allow_concurrent_inputs= and @squall.concurrent; keep the second")
    import dataclasses

    return dataclasses.replace(declaration, concurrency=partial.concurrency)


def _check_callable_alone(raw: Any, tag: str) -> None:
    needed = [
        parameter.name
        for parameter in inspect.signature(raw).parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise InvalidError(f"schedule= of {tag!r}: a scheduled function is called without arguments, and this one needs {', '.join(needed)}")


def _with_defaults_of(app: App, declared: tuple[Function[..., Any, Any] | Cls, Declaration]) -> tuple[Function[..., Any, Any] | Cls, Declaration]:
    """The declaration of an included function, which keeps the image, secrets and source rule of its own app."""
    import dataclasses

    function, declaration = declared
    return function, dataclasses.replace(
        declaration,
        image=declaration.image or app._image,
        secrets=(*app._secrets, *declaration.secrets),
        volumes=tuple({**dict(app._volumes), **dict(declaration.volumes)}.items()),
        include_source=app._include_source if declaration.include_source is None else declaration.include_source,
    )
