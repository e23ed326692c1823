"""Function: the handle that a decorated function becomes."""

import functools
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, cast

from squall.model.errors import DeprecationError, ExecutionError, InvalidError, UnsupportedError
from squall.model.ids import input_id
from squall.model.specs import MethodSpec
from squall.runner.context import current_input, here
from squall.sdk.app.deploy import web_url
from squall.sdk.client.client import Client, new_call_id, warn_if_in_loop
from squall.sdk.client.dual_method import Dual
from squall.sdk.function.autoscaler import Autoscaler, stats_of, tuned, tuning
from squall.sdk.function.call import FunctionCall
from squall.sdk.function.generators import GENERATOR_CREDIT, stream_aio, stream_blocking
from squall.sdk.function.handle import Deployed, Fixed, Handle, Variant
from squall.sdk.function.map import Many
from squall.sdk.function.results import value_of
from squall.sdk.function.serialize import find_global
from squall.sdk.function.single_call import checked, exchange
from squall.sdk.function.variants import WithOptions
from squall.sdk.refusals import NotYet
from squall.sdk.types import FunctionAutoscalerSettings, FunctionCurrentStats
from squall.wire.messages import DURABLE, LIVE, Accepted, Call, FunctionStatus, Output
from squall.wire.parcels import pack_arguments
from squall.wire.values import dump_arguments

if TYPE_CHECKING:
    from squall.sdk.app.app import App
    from squall.sdk.function.cls import DeployedObj, Obj
    from squall.sdk.function.logs import Logs
    from squall.sdk.function.options import Asked

P = ParamSpec("P")
R = TypeVar("R")
#: What the plain function returns: for an async one its coroutine.
L = TypeVar("L")


class Function(WithOptions, Generic[P, R, L]):
    """A function that runs in containers, or a method of an object of an `@app.cls` class.

    `remote` runs it once and waits; `map`, `starmap`, `for_each` run many at once; `spawn` starts it and returns a FunctionCall; `remote_gen` streams a
    generator; `local` runs the plain body here. Each waiting one has an `.aio` twin.
    """

    info, stats, metrics = NotYet(), NotYet(), NotYet()
    get_dashboard_url = NotYet()

    def __init__(
        self,
        raw: Callable[P, L] | None,
        *,
        app: "App | None",
        tag: str,
        method: MethodSpec,
        module: str = "",
        serialized: bool = False,
        handle: Handle | None = None,
        parameters: bytes | Callable[[], bytes] = b"",
        owner: "Obj | DeployedObj | None" = None,
    ) -> None:
        if raw is not None:
            functools.update_wrapper(cast(Any, self), raw)
        self._squall_raw = raw
        self.app, self.tag = app, tag
        self._method, self._module, self._serialized = method, module, serialized
        self._handle = handle if handle is not None else Handle(tag)
        self._owner = owner
        #: Packed parameters of the class; of a deployed one they are asked for when they are needed, since the server has to say which there are.
        self._ask_parameters = parameters if callable(parameters) else None
        self._parameters = b"" if callable(parameters) else parameters
        #: Decorators on it that ask for what is not built yet: an app that has one can't run.
        self._not_yet: tuple[str, ...] = ()
        self.remote: Dual[P, R, Coroutine[Any, Any, R]] = Dual(self._remote, self._remote_aio)
        self.spawn: Dual[P, FunctionCall[R], Coroutine[Any, Any, FunctionCall[R]]] = Dual(self._spawn, self._spawn_aio)
        self.remote_gen: Dual[P, Iterator[Any], AsyncIterator[Any]] = Dual(self._remote_gen, self._remote_gen_aio)
        many: Many[R] = Many(self)
        self.map: Dual[..., Iterator[R], AsyncIterator[R]] = Dual(many.map, many.map_aio)
        self.starmap: Dual[..., Iterator[R], AsyncIterator[R]] = Dual(many.starmap, many.starmap_aio)
        self.for_each: Dual[..., None, Coroutine[Any, Any, None]] = Dual(many.for_each, many.for_each_aio)
        self.spawn_map: Dual[..., None, Coroutine[Any, Any, None]] = Dual(many.spawn_map, many.spawn_map_aio)
        self.experimental_spawn_map: Dual[..., FunctionCall[R], Coroutine[Any, Any, FunctionCall[R]]] = Dual(many.spawn_call, many.spawn_call_aio)
        self.get_current_stats: Dual[[], FunctionCurrentStats, Coroutine[Any, Any, FunctionCurrentStats]] = Dual(self._stats, self._stats_aio)
        self.update_autoscaler: Dual[..., FunctionAutoscalerSettings, Coroutine[Any, Any, FunctionAutoscalerSettings]] = Dual(self._tune, self._tune_aio)
        self.get_web_url: Dual[[], str | None, Coroutine[Any, Any, str | None]] = Dual(self._web_url, self._web_url_aio)
        self.hydrate: Dual[..., Function[P, R, L], Coroutine[Any, Any, Function[P, R, L]]] = Dual(self._hydrate, self._hydrate_aio)

    def __repr__(self) -> str:
        return f"<Function {self._name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> NoReturn:
        raise InvalidError(f"{self.tag} is a Squall function: call {self.tag}.remote(...) to run it in a container, or {self.tag}.local(...) to run it here")

    def __reduce__(self) -> Any:
        handle = self._handle
        if self._owner is not None:
            return getattr, (self._owner, self._method.name)
        options = handle.asked if isinstance(handle, Variant) else None
        if isinstance(deployed := handle.base, Deployed):
            return _deployed, (deployed.app, deployed.tag, deployed.environment, options)
        if isinstance(handle, Fixed):
            return Function.from_id, (handle.id,)
        qualname = self._squall_raw.__qualname__ if self._squall_raw is not None else self.tag
        return _find, (self._module, qualname, self.tag, self._method, handle.base.known(), options)

    @property
    def _name(self) -> str:
        app = self.app.name if self.app is not None and self.app.name else here.app_name
        return f"{app}.{self.tag}" if app else self.tag

    @property
    def object_id(self) -> str | None:
        """The ``fu-…`` id while the app runs."""
        return self._handle.known()

    @property
    def is_hydrated(self) -> bool:
        """Whether it can be called: its app runs."""
        return self._handle.known() is not None

    @property
    def is_generator(self) -> bool:
        """Whether calls stream items (`remote_gen`)."""
        return self._method.is_generator

    @property
    def web_url(self) -> str | None:
        """Old spelling of `get_web_url`."""
        warnings.warn(f"{self.tag}.web_url is the old spelling of {self.tag}.get_web_url()", DeprecationError, stacklevel=2)
        return self._web_url()

    @property
    def logs(self) -> "Logs":
        """``logs.tail()``, ``logs.fetch(since=...)``, ``logs.stream()``: what its containers wrote, those of its variants included."""
        from squall.sdk.function.logs import Logs, of_function

        return Logs(self.client, lambda: of_function(self._handle.base.bound()[1]))

    @property
    def autoscaler(self) -> Autoscaler:
        """``autoscaler.settings()`` and ``autoscaler.update(...)``."""
        return Autoscaler(self)

    @property
    def client(self) -> Client:
        """Of the server where its calls go."""
        return self._handle.asked_client() or Client.default()

    def get_raw_f(self) -> Callable[P, L]:
        """The plain Python function."""
        return self._raw()

    def local(self, *args: P.args, **kwargs: P.kwargs) -> L:
        """Run the plain body in this process. A method's object is made, and entered, with the first such call."""
        if self._owner is not None:
            return cast(L, self._owner._call_local(self._method.name, args, kwargs))
        return self._raw()(*args, **kwargs)

    def _raw(self) -> Callable[P, L]:
        if self._squall_raw is None:
            raise ExecutionError(f"the body of {self.tag} is not in this program: only .remote and its kin can be used")
        return self._squall_raw

    @staticmethod
    def from_id(function_id: str, *, client: Client | None = None) -> "Function[..., Any, Any]":
        """A function by its ``fu-…`` id.

        Raises:
            InvalidError: not such an id.
        """
        if not isinstance(function_id, str) or not function_id.startswith("fu-"):
            raise InvalidError(f"{function_id!r} is no function id; they begin with fu- and come from Function.object_id")
        return Function(None, app=None, tag=function_id, method=MethodSpec(), handle=Fixed(function_id, function_id, client))

    @staticmethod
    def from_name(
        app_name: str, name: str, *, version: int | None = None, environment_name: str | None = None, client: Client | None = None
    ) -> "Function[..., Any, Any]":
        """A function of a deployed app; nothing is looked up before it is called.

        Raises:
            InvalidError: `name` is a method's; those are taken from `Cls.from_name`.
        """
        if "." in name:
            cls, _, method = name.partition(".")
            raise InvalidError(f"{name!r} is a method: write  squall.Cls.from_name({app_name!r}, {cls!r})().{method}")
        if version is not None:
            raise UnsupportedError(f"version={version!r} of Function.from_name is not supported yet: handles follow the live version")
        return Function(None, app=None, tag=name, method=MethodSpec(), handle=Deployed(app_name, name, environment_name, client))

    @staticmethod
    def lookup(app_name: str, name: str, *, client: Client | None = None, environment_name: str | None = None) -> "Function[..., Any, Any]":
        """Old spelling of `from_name`."""
        warnings.warn("Function.lookup is the old spelling of Function.from_name", DeprecationError, stacklevel=2)
        return Function.from_name(app_name, name, environment_name=environment_name, client=client)

    def _variant(self, asked: "Asked") -> "Function[P, R, L]":
        if self._owner is not None:
            raise InvalidError(f"{self.tag} is a method, which shares containers with its class: write {self.tag.partition('.')[0]}.with_options(...)")
        return Function(
            self._squall_raw, app=self.app, tag=self.tag, method=self._method, module=self._module, serialized=self._serialized,
            handle=Variant.on(self._handle, asked),
        )  # fmt: skip

    # what the server knows of it

    def _hydrate(self, client: Client | None = None) -> "Function[P, R, L]":
        """Look it up now, where that would otherwise happen with the first call; itself.

        Args:
            client: of the server where it is looked up.

        Raises:
            InvalidError: its app runs on another server.
            NotFoundError: there is none.
        """
        if client is not None:
            self._handle.use(client)
        self._bound()
        return self

    async def _hydrate_aio(self, client: Client | None = None) -> "Function[P, R, L]":
        import asyncio

        return await asyncio.to_thread(self._hydrate, client)

    def _web_url(self) -> str | None:
        """The address of a web function; None for others. It stays the same over versions."""
        client, function = self._bound()
        name = f"{self.tag.partition('.')[0]}.{self._method.name}" if self._method.name else self.tag
        return web_url(client, function, name)

    async def _web_url_aio(self) -> str | None:
        import asyncio

        return await asyncio.to_thread(self._web_url)

    def _stats(self) -> FunctionCurrentStats:
        """What waits, what runs, and how many containers there are, now."""
        client, function = self._bound()
        return stats_of(client.request(FunctionStatus(function, self._parameters)))

    async def _stats_aio(self) -> FunctionCurrentStats:
        client, function = self._bound()
        return stats_of(await client.request_aio(FunctionStatus(function, self._parameters)))

    def _tune(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> FunctionAutoscalerSettings:
        """Change how many containers it has, while the app runs; returns the settings that hold now. None leaves one as it is."""
        client, function = self._bound()
        return tuned(client.request(tuning(function, self._parameters, min_containers, max_containers, buffer_containers, scaledown_window)))

    async def _tune_aio(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> FunctionAutoscalerSettings:
        client, function = self._bound()
        return tuned(await client.request_aio(tuning(function, self._parameters, min_containers, max_containers, buffer_containers, scaledown_window)))

    def keep_warm(self, warm_pool_size: int) -> None:
        """Old spelling of ``update_autoscaler(min_containers=)``."""
        warnings.warn(f"{self.tag}.keep_warm(n) is the old spelling of {self.tag}.update_autoscaler(min_containers=n)", DeprecationError, stacklevel=2)
        self._tune(min_containers=warm_pool_size)

    # what the app needs

    @property
    def _specs(self) -> tuple[MethodSpec, ...]:
        return (self._method,)

    def _by_value(self) -> Any:
        return self._raw()

    # binding

    def _bound(self) -> tuple[Client, str]:
        if self._ask_parameters is not None:
            self._parameters = self._ask_parameters()
            self._ask_parameters = None
        return self._handle.bound()

    def _call(self, request: int, call_id: str, index: int, data: bytes, hold: int = LIVE, credit: int = 0) -> Call:
        parent = current_input.get()
        client, function = self._handle.bound()
        client.calls += 1
        return Call(request, function, call_id, index, data, self._method.name, hold, credit, self._parameters, "" if parent is None else input_id(*parent))

    def _learn(self, name: str) -> MethodSpec:
        """What it is: of a deployed function the server knows.

        Raises:
            InvalidError: a web function, which has no `name`.
        """
        if isinstance(deployed := self._handle.base, Deployed):
            self._method = deployed.found().methods.get(self._method.name, self._method)
        if self._method.web is not None:
            raise InvalidError(f"{self.tag} is a web function: it answers requests at {self.tag}.get_web_url(), and has no .{name}(...)")
        return self._method

    def _one_result(self, name: str) -> None:
        if self._learn(name).is_generator:
            raise InvalidError(f"{self.tag} is a generator: use {self.tag}.remote_gen(...) instead of {self.tag}.{name}(...)")

    # remote

    def _remote(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it in a container and wait for its value; raises what it raised.

        Raises:
            FunctionTimeoutError, OutOfMemoryError, ContainerDiedError, ...: see `squall.exception`.
            SerializationError: an argument can't be pickled.
        """
        self._one_result("remote")
        warn_if_in_loop(f"{self.tag}.remote")
        client, _ = self._bound()
        call = self._call(1, new_call_id(), 0, pack_arguments(args, kwargs, self.tag, client.parcels))
        output = exchange(client, call)
        if not isinstance(output, Output):
            raise ExecutionError(f"the server answered a call of {self.tag} with {type(output).__name__}")
        return cast(R, value_of(output, self.tag))

    async def _remote_aio(self, *args: P.args, **kwargs: P.kwargs) -> R:
        self._one_result("remote.aio")
        client, _ = self._bound()
        link = client.loop_connection()
        request, queue = link.begin()
        call = self._call(request, new_call_id(), 0, pack_arguments(args, kwargs, self.tag, client.parcels))
        return cast(R, value_of(checked(await link.answer(call, queue)), self.tag))

    # spawn

    def _spawn(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        """Start it and return at once; the call is in the server's store before this returns."""
        self._one_result("spawn")
        warn_if_in_loop(f"{self.tag}.spawn")
        client, _ = self._bound()
        call = self._call(1, new_call_id(), 0, dump_arguments(args, kwargs, self.tag), hold=DURABLE)
        exchange(client, call)
        return FunctionCall(call.call, client, 1)

    async def _spawn_aio(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[R]:
        self._one_result("spawn.aio")
        client, _ = self._bound()
        link = client.loop_connection()
        request, queue = link.begin()
        call = self._call(request, new_call_id(), 0, dump_arguments(args, kwargs, self.tag), hold=DURABLE)
        answer = await link.answer(call, queue)
        if not isinstance(answer, Accepted):
            checked(answer)
        return FunctionCall(call.call, client, 1)

    # generators

    def _remote_gen(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        """Run a generator function in a container and yield its items as they come. A caller that takes no more stops it."""
        if not self._learn("remote_gen").is_generator:
            raise InvalidError(f"{self.tag} is no generator: use {self.tag}.remote(...)")
        warn_if_in_loop(f"{self.tag}.remote_gen")
        client, _ = self._bound()
        call = self._call(1, new_call_id(), 0, pack_arguments(args, kwargs, self.tag, client.parcels), credit=GENERATOR_CREDIT)
        return stream_blocking(client, call, self.tag)

    def _remote_gen_aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
        def begin() -> tuple[Any, int, Any, Call]:
            if not self._learn("remote_gen").is_generator:
                raise InvalidError(f"{self.tag} is no generator: use {self.tag}.remote.aio(...)")
            client, _ = self._bound()
            link = client.loop_connection()
            request, queue = link.begin()
            return link, request, queue, self._call(request, new_call_id(), 0, pack_arguments(args, kwargs, self.tag, client.parcels), credit=GENERATOR_CREDIT)

        return stream_aio(begin, self.tag)


def _find(module: str, qualname: str, tag: str, method: MethodSpec, function_id: str | None, asked: "Asked | None") -> Function[..., Any, Any]:
    """A function that was pickled: this process's own where it has it, else a handle of its id."""
    found = find_global(module, qualname)
    if not isinstance(found, Function) or found.tag != tag:
        handle = None if function_id is None else Fixed(tag, function_id)
        function: Function[..., Any, Any] = Function(None, app=None, tag=tag, method=method, handle=handle)
    else:
        function = found
    return function if asked is None else function._variant(asked)


def _deployed(app: str, tag: str, environment: str | None, asked: "Asked | None") -> Function[..., Any, Any]:
    function = Function.from_name(app, tag, environment_name=environment)
    return function if asked is None else function._variant(asked)
