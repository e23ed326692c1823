"""Decorators that go under `@app.function` and `@app.cls`: they mark what they decorate, and the app reads the marks."""

import enum
import inspect
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, Protocol, TypeVar, cast, overload

from squall.model.errors import InvalidError
from squall.model.specs import Batching, Concurrency, MethodSpec, Web

if TYPE_CHECKING:
    from squall.sdk.function.function import Function

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

#: As in Modal.
BATCH_SIZE_MAX, BATCH_WAIT_MS_MAX = 1000, 10 * 60 * 1000


class Mark(enum.Flag):
    """What a function or class is marked as."""

    METHOD = enum.auto()
    ENTER = enum.auto()
    ENTER_SNAP = enum.auto()
    EXIT = enum.auto()
    BATCHED = enum.auto()
    CONCURRENT = enum.auto()
    WEB = enum.auto()
    CLUSTERED = enum.auto()


LIFECYCLE = Mark.ENTER | Mark.ENTER_SNAP | Mark.EXIT
#: What can be called from outside.
INTERFACE = Mark.METHOD | Mark.BATCHED | Mark.WEB


class Partial:
    """A marked function or class. As an attribute of an object that Squall made it is the object's `Function`; elsewhere, the plain method."""

    def __init__(self, raw: Any) -> None:
        self._squall_partial = True
        self.raw = raw
        self.marks = Mark(0)
        #: Spelling of each mark, for messages: ``@squall.method``.
        self.spelled: dict[Mark, str] = {}
        self.is_generator: bool | None = None
        self.batching: Batching | None = None
        self.concurrency: Concurrency | None = None
        self.web: Web | None = None
        for name in ("__name__", "__qualname__", "__doc__", "__module__"):
            setattr(self, name, getattr(raw, name, None))

    def __repr__(self) -> str:
        return f"<{' '.join(self.spelled.values())} {self.raw.__qualname__}>"

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        above = "@app.cls()" if isinstance(self.raw, type) else "@app.function()"
        raise InvalidError(f"{self.raw.__name__!r} has {' '.join(self.spelled.values())} but no {above} above it")

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        obj = getattr(instance, "__dict__", {}).get("_squall_obj")
        if obj is not None and self.marks & INTERFACE:
            return getattr(obj, self.raw.__name__)
        return self.raw.__get__(instance, owner)

    def not_yet(self) -> tuple[str, ...]:
        """The marks that ask for what is not built yet."""
        return tuple(spelled for mark, spelled in self.spelled.items() if mark & Mark.CLUSTERED)

    def method_spec(self, name: str) -> MethodSpec:
        """As one method of a function or class.

        Raises:
            InvalidError: `is_generator` contradicts the function.
        """
        return method_spec(self.raw, self.is_generator, name=name, batching=self.batching, web=self.web)


def method_spec(raw: Callable[..., Any], is_generator: bool | None, *, name: str = "", batching: Batching | None = None, web: Web | None = None) -> MethodSpec:
    """What a function's own form says of how it is called."""
    generates = inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw)
    if is_generator is False and generates:
        raise InvalidError(f"is_generator=False, but {raw.__qualname__!r} has a yield")
    is_async = inspect.iscoroutinefunction(raw) or inspect.isasyncgenfunction(raw)
    return MethodSpec(name=name, is_generator=generates if is_generator is None else is_generator, is_async=is_async, batching=batching, web=web)


def mark(target: Any, what: Mark, spelled: str) -> Partial:
    """`target` with one more mark.

    Raises:
        InvalidError: it goes above `@app.function` or `@app.cls`, is there twice, or can't be combined with what is there.
    """
    if hasattr(target, "_squall_raw"):
        above = "@app.cls" if isinstance(target._squall_raw, type) else "@app.function"
        raise InvalidError(f"{spelled} goes below {above}: write {above}() above it, nearest to the top")
    if isinstance(target, staticmethod | classmethod):
        raise InvalidError(f"{spelled} is for plain methods, not for a {type(target).__name__}")
    if not isinstance(target, Partial) and not (inspect.isfunction(target) or isinstance(target, type)):
        raise InvalidError(f"{spelled} is for functions{' and classes' if what is Mark.CONCURRENT else ''}, not for {target!r}")
    partial = target if isinstance(target, Partial) else Partial(target)
    if isinstance(partial.raw, type) and what is not Mark.CONCURRENT and what is not Mark.CLUSTERED:
        raise InvalidError(f"{spelled} is for functions and methods, not for the class {partial.raw.__name__!r}")
    if what & partial.marks:
        raise InvalidError(f"{partial.raw.__qualname__!r} has {spelled} twice")
    for other, name in partial.spelled.items():
        if reason := _clash(what | other):
            raise InvalidError(f"{partial.raw.__qualname__!r} has both {name} and {spelled}: {reason}")
    partial.marks |= what
    partial.spelled[what] = spelled
    return partial


def _clash(both: Mark) -> str | None:
    if both & LIFECYCLE and both & ~LIFECYCLE:
        return "what runs at a container's start or end can't be called too"
    if both == Mark.METHOD | Mark.BATCHED:
        return "a batched method needs no @squall.method; take that away"
    if both & Mark.WEB and both & (Mark.METHOD | Mark.BATCHED):
        return "it can be called either through the web or with .remote()"
    return None


class _MethodDecorator(Protocol):
    @overload
    def __call__(self, raw: "Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]", /) -> "Function[P, R, Coroutine[Any, Any, R]]": ...
    @overload
    def __call__(self, raw: "Callable[Concatenate[Any, P], R]", /) -> "Function[P, R, R]": ...


def method(_nothing: None = None, *, is_generator: bool | None = None) -> _MethodDecorator:
    """Make a method of an `@app.cls` class callable from outside.

    Args:
        is_generator: for a plain method that returns a generator.
    """
    _parentheses("method", _nothing)
    if is_generator is not None and not isinstance(is_generator, bool):
        raise InvalidError(f"is_generator={is_generator!r} is not True, False or None")

    def decorate(raw: Any) -> Any:
        partial = mark(raw, Mark.METHOD, "@squall.method")
        partial.is_generator = is_generator
        return partial

    return cast(_MethodDecorator, decorate)


def enter(_nothing: None = None, *, snap: bool = False) -> Callable[[Callable[[Any], Any]], Any]:
    """Run a method of an `@app.cls` class when its container starts. Synchronous or async.

    Args:
        snap: before a memory snapshot; without snapshots, just before the other ones.
    """
    _parentheses("enter", _nothing)
    return lambda raw: _hook(raw, Mark.ENTER_SNAP if snap else Mark.ENTER, "@squall.enter")


def exit(_nothing: None = None) -> Callable[[Callable[[Any], Any]], Any]:
    """Run a method of an `@app.cls` class when its container ends; it has 30 seconds. Synchronous or async."""
    _parentheses("exit", _nothing)
    return lambda raw: _hook(raw, Mark.EXIT, "@squall.exit")


def _hook(raw: Any, what: Mark, spelled: str) -> Partial:
    partial = mark(raw, what, spelled)
    if inspect.isgeneratorfunction(partial.raw) or inspect.isasyncgenfunction(partial.raw):
        raise InvalidError(f"{spelled} is for plain and async methods, and {partial.raw.__qualname__!r} has a yield")
    return partial


def batched(_nothing: None = None, *, max_batch_size: int, wait_ms: int) -> Callable[[Callable[..., Any]], Any]:
    """Collect inputs: callers pass single values, the body gets a list for each parameter and returns a list as long.

    Args:
        max_batch_size: at most so many inputs at a time, 1 to 1000.
        wait_ms: milliseconds that the first input of a batch waits for others, 0 to 600000.
    """
    _parentheses("batched", _nothing)
    batching = check_batching(max_batch_size, wait_ms)

    def decorate(raw: Any) -> Any:
        partial = mark(raw, Mark.BATCHED, "@squall.batched")
        _check_batched(partial.raw)
        partial.batching = batching
        return partial

    return decorate


def check_batching(max_batch_size: object, wait_ms: object) -> Batching:
    for name, value, least, most in (("max_batch_size", max_batch_size, 1, BATCH_SIZE_MAX), ("wait_ms", wait_ms, 0, BATCH_WAIT_MS_MAX)):
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidError(f"{name}={value!r} is not a whole number from {least} to {most}")
    assert isinstance(max_batch_size, int)
    assert isinstance(wait_ms, int)
    return Batching(max_batch_size, wait_ms)


def _check_batched(raw: Callable[..., Any]) -> None:
    if inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw):
        raise InvalidError(f"{raw.__qualname__!r} has a yield: a batched function returns a list")
    for parameter in inspect.signature(raw).parameters.values():
        if parameter.default is not parameter.empty:
            raise InvalidError(f"parameter {parameter.name!r} of the batched {raw.__qualname__!r} has a default; every caller has to give every value")
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InvalidError(f"the batched {raw.__qualname__!r} can't take {'**' if parameter.kind is parameter.VAR_KEYWORD else '*'}{parameter.name}")


def concurrent(_nothing: None = None, *, max_inputs: int | None = None, target_inputs: int | None = None) -> Callable[[T], T]:
    """Let a container run several inputs at once: synchronous functions in threads, async ones as tasks. For classes, on the class.

    Args:
        max_inputs: at most so many in one container.
        target_inputs: as many as the autoscaler aims at; by default `max_inputs`.
    """
    _parentheses("concurrent", _nothing)
    concurrency = check_concurrency(max_inputs, target_inputs)

    def decorate(raw: Any) -> Any:
        partial = mark(raw, Mark.CONCURRENT, "@squall.concurrent")
        partial.concurrency = concurrency
        return partial

    return decorate


def check_concurrency(max_inputs: object, target_inputs: object) -> Concurrency:
    if max_inputs is None:
        raise InvalidError("@squall.concurrent needs max_inputs=: how many inputs one container may run at a time")
    for name, value in (("max_inputs", max_inputs), ("target_inputs", target_inputs)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidError(f"{name}={value!r} is not a whole number of 1 or more")
    assert isinstance(max_inputs, int)
    assert target_inputs is None or isinstance(target_inputs, int)
    if target_inputs is not None and target_inputs > max_inputs:
        raise InvalidError(f"target_inputs={target_inputs} is more than max_inputs={max_inputs}")
    return Concurrency(max_inputs, target_inputs)


def _parentheses(name: str, given: object) -> None:
    if given is not None:
        raise InvalidError(f"@squall.{name} needs its parentheses, and its parameters their names: @squall.{name}(...)")
