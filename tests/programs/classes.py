"""Classes for tests/e2e: hooks, parameters, inheritance, methods that call each other."""

import asyncio
import os
import socket
import time

import squall

app = squall.App("classes")


class Base:
    @squall.enter()
    def begin(self):
        self.events = ["base enter"]

    @squall.method()
    def seen(self):
        return self.events

    @squall.method()
    def overridden(self):
        raise NotImplementedError


@app.cls()
class Derived(Base):
    size: int = squall.parameter(default=3)
    name: str = squall.parameter(default="x")
    seal: bytes = squall.parameter(default=b"\0")
    loud: bool = squall.parameter(default=False)
    later: list = squall.parameter(init=False)

    @squall.enter(snap=True)
    def first(self):
        self.early = "snap"

    @squall.enter()
    async def second(self):
        await asyncio.sleep(0.001)
        self.events.append(f"own enter {self.early}")
        self.later = [self.size]

    @squall.method()
    def overridden(self):
        return "derived"

    @squall.method()
    def values(self):
        return self.size, self.name, self.seal, self.loud, self.later

    @squall.method()
    def add(self, x: int) -> int:
        return x + self.size

    @squall.method()
    def inside(self, x: int):
        return self.add.local(x), self.add.remote(x), self.helper()

    @squall.method()
    async def twice(self, x: int) -> int:
        return 2 * x

    @squall.method()
    def count(self, n: int):
        for i in range(n):
            yield i * self.size

    @squall.method(is_generator=True)
    def returns_generator(self, n: int):
        return iter(range(n))

    def helper(self):
        return "plain"

    @squall.method()
    def where(self):
        return socket.gethostname(), type(self).__name__

    @squall.method()
    def variable(self, name: str):
        return os.environ.get(name)


@app.cls()
class OneLoop:
    @squall.enter()
    async def remember(self):
        self.loop = asyncio.get_running_loop()

    @squall.enter()
    def no_loop_here(self):
        asyncio.run(asyncio.sleep(0))

    @squall.method()
    async def same(self) -> bool:
        return asyncio.get_running_loop() is self.loop

    @squall.exit()
    async def leave(self):
        print("same loop at exit:", asyncio.get_running_loop() is self.loop, flush=True)


@app.cls(scaledown_window=2)
class Leaves:
    mark: str = squall.parameter()

    @squall.method()
    def work(self, seconds: float = 0.0):
        print("working", flush=True)
        time.sleep(seconds)
        return self.mark

    @squall.exit()
    def bye(self):
        print(f"bye {self.mark}", flush=True)


@app.cls()
class FailsToEnter:
    @squall.enter()
    def enter(self):
        raise LookupError("no model")

    @squall.method()
    def f(self):
        return 1


@app.function()
def takes_handles(function, obj, cls):
    return function.remote(3), obj.add.remote(10), cls(size=100).add.remote(1), obj.size


@app.function()
def uses_class(x: int):
    return Derived(size=x).add.remote(1), Derived.with_options(env={"OPTION": "given"})().values.remote()


@app.function()
def environment(name: str):
    return os.environ.get(name), len(os.sched_getaffinity(0))


@app.function()
def square(x: int):
    return x * x
