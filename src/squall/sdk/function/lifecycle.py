"""Objects of app classes in this process: made without a constructor, entered once, and called."""

import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from squall.model.specs import MethodSpec
from squall.sdk.app.decorators import Mark, Partial

Hooks = tuple[Callable[[], Any], ...]


def make_instance(raw: type, values: Mapping[str, Any]) -> Any:
    """An object of the user's class that has its parameters; the class has no ``__init__`` of its own."""
    instance: Any = raw.__new__(raw)  # type: ignore[call-overload]
    for name, value in values.items():
        setattr(instance, name, value)
    return instance


def hooks(kind: Mark, partials: Mapping[str, Partial], body: Callable[[str], Any], instance: Any) -> Hooks:
    """The methods of an object that are marked so, in order of definition."""
    return tuple(body(name).__get__(instance) for name, partial in partials.items() if partial.marks & kind)


class LocalObject:
    """An object of the user's class and the hooks that it has yet to run. Threads may share it: the hooks run once."""

    def __init__(self, instance: Any, hooks: Hooks = ()) -> None:
        self.instance = instance
        self._hooks = hooks
        self._lock = threading.RLock()

    def enter(self) -> None:
        """Run the hooks that have not run."""
        if not self._hooks:
            return
        with self._lock:
            hooks, self._hooks = self._hooks, ()
            for hook in hooks:
                value = hook()
                if inspect.isawaitable(value):
                    _run(_await(value))

    async def enter_aio(self) -> None:
        """`enter` on the running event loop."""
        hooks, self._hooks = self._hooks, ()
        for hook in hooks:
            value = hook()
            if inspect.isawaitable(value):
                await value

    def call(self, method: MethodSpec, body: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The method's value; for an async one its coroutine, for a generator its iterator. Each enters the object first."""
        bound = body.__get__(self.instance)
        if method.is_async:
            return self._items(bound, args, kwargs) if method.is_generator else self._value(bound, args, kwargs)
        self.enter()
        return bound(*args, **kwargs)

    async def _value(self, bound: Callable[..., Coroutine[Any, Any, Any]], args: Any, kwargs: Any) -> Any:
        await self.enter_aio()
        return await bound(*args, **kwargs)

    async def _items(self, bound: Callable[..., AsyncIterator[Any]], args: Any, kwargs: Any) -> AsyncIterator[Any]:
        await self.enter_aio()
        async for item in bound(*args, **kwargs):
            yield item


async def _await(value: Any) -> Any:
    return await value


def _run(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run it to its end, also where a loop runs already: then in another thread."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(coroutine)
        return
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="squall enter")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
