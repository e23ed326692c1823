"""One text for a method and its `.aio` twin: it is written as a generator that yields what to ask the server and is sent the answers.

`Twin` makes a method of it, `Stream` an iterator, `static` a function without an object. What it yields: a command, or a command with a function for its
events (`Ask`); in a `Stream` also `Give`, values for the caller.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator
from types import MethodType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from squall.model.errors import ConnectionError, Error, InvalidError, rebuild
from squall.sdk.client.client import Client, warn_if_in_loop
from squall.sdk.client.dual_method import Dual
from squall.wire.messages import Fault, Reply, Request
from squall.wire.state import Abandon

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D", bound=Dual[..., Any, Any])
S = TypeVar("S", bound="Speaker")

Talk = Generator[Any, Any, R]


def known(value: R) -> Callable[[], Talk[R]]:
    """What need not be asked for."""

    def talk() -> Talk[R]:
        yield from ()
        return value

    return talk


class Speaker(Protocol):
    """Something with methods that talk to a server."""

    @property
    def client(self) -> Client: ...


class Ask(NamedTuple):
    """A command whose events go to `on_event`."""

    command: Any
    on_event: Callable[[Any], None]


class Give(NamedTuple):
    """Values for the caller of a `Stream`."""

    values: Iterable[Any]


class Twin(Generic[S, P, R]):
    """A method: ``x.m(...)`` blocks, ``await x.m.aio(...)`` does not. A parameter ``client`` says whom to ask, instead of the object's client."""

    def __init__(self, method: Callable[Concatenate[S, P], Talk[R]]) -> None:
        self._method = method
        self._named_client = _NamedClient(method)
        self.__doc__, self.__name__ = method.__doc__, method.__name__

    @overload
    def __get__(self, instance: None, owner: type) -> "Twin[S, P, R]": ...
    @overload
    def __get__(self, instance: S, owner: type) -> Dual[P, R, Coroutine[Any, Any, R]]: ...
    def __get__(self, instance: S | None, owner: type) -> Any:
        if instance is None:
            return self
        method, name, named = self._method, f"{owner.__name__}.{self.__name__}", self._named_client

        def blocking(*args: P.args, **kwargs: P.kwargs) -> R:
            warn_if_in_loop(name)
            return talk(named(instance, *args, **kwargs) or instance.client, method(instance, *args, **kwargs))

        async def aio(*args: P.args, **kwargs: P.kwargs) -> R:
            return await talk_aio(named(instance, *args, **kwargs) or instance.client, method(instance, *args, **kwargs))

        return _with_signature(Dual(blocking, aio), MethodType(method, instance))


class Stream(Generic[S, P]):
    """An iterator: ``for v in x.m(...)``, ``async for v in x.m.aio(...)``."""

    def __init__(self, method: Callable[Concatenate[S, P], Talk[None]]) -> None:
        self._method = method
        self.__doc__, self.__name__ = method.__doc__, method.__name__

    @overload
    def __get__(self, instance: None, owner: type) -> "Stream[S, P]": ...
    @overload
    def __get__(self, instance: S, owner: type) -> Dual[P, Iterator[Any], AsyncIterator[Any]]: ...
    def __get__(self, instance: S | None, owner: type) -> Any:
        if instance is None:
            return self
        method, name = self._method, f"{owner.__name__}.{self.__name__}"

        def blocking(*args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
            warn_if_in_loop(name)
            return stream(instance.client, method(instance, *args, **kwargs))

        def aio(*args: P.args, **kwargs: P.kwargs) -> AsyncIterator[Any]:
            return stream_aio(instance.client, method(instance, *args, **kwargs))

        return _with_signature(Dual(blocking, aio), MethodType(method, instance))


def static(function: Callable[P, Talk[R]]) -> Dual[P, R, Coroutine[Any, Any, R]]:
    """A function of a class. A parameter ``client`` says whom to ask, instead of the default client."""
    named = _NamedClient(function)

    def blocking(*args: P.args, **kwargs: P.kwargs) -> R:
        warn_if_in_loop(function.__qualname__)
        return talk(named(*args, **kwargs) or Client.default(), function(*args, **kwargs))

    async def aio(*args: P.args, **kwargs: P.kwargs) -> R:
        return await talk_aio(named(*args, **kwargs) or Client.default(), function(*args, **kwargs))

    return _with_signature(Dual(blocking, aio), function)


def _with_signature(dual: D, written: Callable[..., Any]) -> D:
    """The pair, whose parameters `inspect.signature` and editors find at what was written."""
    dual.__wrapped__.__wrapped__ = written  # type: ignore[attr-defined]
    return dual


class _NamedClient:
    """Finds the value of a function's parameter ``client`` among the arguments of a call."""

    __slots__ = ("_place", "_has")

    def __init__(self, function: Any) -> None:
        code = function.__code__
        positional = code.co_varnames[: code.co_argcount]
        self._place = positional.index("client") if "client" in positional else None
        self._has = "client" in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    def __call__(self, *args: Any, **kwargs: Any) -> Client | None:
        """
        Raises:
            InvalidError: it is no client.
        """
        if not self._has:
            return None
        place = self._place
        client = args[place] if place is not None and place < len(args) else kwargs.get("client")
        if client is not None and not isinstance(client, Client):
            raise InvalidError(f"client={client!r} is not a squall.Client")
        return client


def talk(client: Client, plan: Talk[R]) -> R:
    """Carry it out, blocking."""
    step: Callable[[Any], Any] = plan.send
    value: Any = None
    try:
        while True:
            asked = step(value)
            step = plan.send
            try:
                value = client.request(*_asked(asked))
            except Error as error:
                step, value = plan.throw, error
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


async def talk_aio(client: Client, plan: Talk[R]) -> R:
    """Carry it out on an event loop."""
    step: Callable[[Any], Any] = plan.send
    value: Any = None
    try:
        while True:
            asked = step(value)
            step = plan.send
            try:
                value = await ask_aio(client, *_asked(asked))
            except Error as error:
                step, value = plan.throw, error
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def stream(client: Client, plan: Talk[None]) -> Iterator[Any]:
    """The values that it gives."""
    step: Callable[[Any], Any] = plan.send
    value: Any = None
    while True:
        try:
            asked = step(value)
        except StopIteration:
            return
        step, value = plan.send, None
        if isinstance(asked, Give):
            yield from asked.values
            continue
        try:
            value = client.request(*_asked(asked))
        except Error as error:
            step, value = plan.throw, error


async def stream_aio(client: Client, plan: Talk[None]) -> AsyncIterator[Any]:
    """`stream` on an event loop."""
    step: Callable[[Any], Any] = plan.send
    value: Any = None
    while True:
        try:
            asked = step(value)
        except StopIteration:
            return
        step, value = plan.send, None
        if isinstance(asked, Give):
            for each in asked.values:
                yield each
            continue
        try:
            value = await ask_aio(client, *_asked(asked))
        except Error as error:
            step, value = plan.throw, error


def _asked(asked: Any) -> tuple[Any, Callable[[Any], None] | None]:
    return (asked.command, asked.on_event) if isinstance(asked, Ask) else (asked, None)


async def ask_aio(client: Client, command: Any, on_event: Callable[[Any], None] | None = None) -> Any:
    """Send a command on this loop's connection and wait for its answer. A cancelled wait takes it back: a `get` of a queue then takes nothing.

    Raises:
        Error: the server's refusal, as its class.
        ConnectionError: no server, or it went away; whether the command took effect is then unknown.
    """
    link = client.loop_connection()
    for attempt in (1, 2):
        request, queue = link.begin()
        link.asked.add(request)
        try:
            peer = await link.ensure_link()
            peer.send(Request(request, command))
            while True:
                found = await queue.get()
                if isinstance(found, Reply):
                    return found.answer
                if isinstance(found, Fault):
                    raise rebuild(found.code, found.message, found.details)
                if isinstance(found, BaseException):
                    raise found
                if on_event is not None:
                    on_event(found)
        except ConnectionError:
            if attempt == 2:
                raise
        except BaseException as error:
            if not isinstance(error, Error) and link.link is not None:
                link.link.send(Abandon(request))
            raise
        finally:
            link.asked.discard(request)
            link.end(request)
    raise AssertionError("unreachable")
