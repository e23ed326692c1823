"""The program of a container: connect, import the user's code, serve inputs until told to stop."""

import atexit
import inspect
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import msgspec

import squall
from squall.model.errors import DeprecationError
from squall.model.specs import FunctionSpec
from squall.runner import alias, init, prints
from squall.runner.channel import WAKE, Channel
from squall.runner.context import CONTAINER_VARIABLE, SOCKET_VARIABLE, here
from squall.runner.failures import pack_exception
from squall.runner.load import Service, load
from squall.runner.serial import SerialServer
from squall.wire.framing import pack
from squall.wire.messages import PROTOCOL_VERSION, RAISED, Boot, Hello, Print, Ready, StartFailed, Welcome


def main(loaded: Service | None = None, gate: Callable[[], None] | None = None) -> None:
    """Never returns; the exit status is 0 after a stop that was asked for.

    Args:
        loaded: the user's code, where this process is a copy of one that imported it.
        gate: returns when the user's code may run, in a process that is not the container's first.
    """
    signal.signal(WAKE, lambda *_: None)  # its default is to end the process, and a server of an earlier life may send it at any moment
    if gate is None:
        init.enter_if_first()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(os.environ[SOCKET_VARIABLE])
    sock.sendall(pack(Hello(PROTOCOL_VERSION, "runner", os.environ[CONTAINER_VARIABLE], squall.__version__)))
    if gate is not None:
        gate()
    greeting, scratch, _, _ = socket.recv_fds(sock, 4, 1)
    channel = Channel(sock, scratch[0] if scratch else None)
    channel.path, channel.name = os.environ[SOCKET_VARIABLE], os.environ[CONTAINER_VARIABLE]
    channel.take(greeting)
    welcome = channel.receive()
    assert isinstance(welcome, Welcome), f"the agent sent {type(welcome).__name__} first"
    boot = channel.receive()
    assert isinstance(boot, Boot), f"the agent sent {type(boot).__name__} first"
    serve(channel, boot, loaded)


def settle_in(boot: Boot) -> None:
    """Become the place that `boot` describes: environment, import path, what the SDK knows of its surroundings."""
    search = os.environ.get("PYTHONPATH", "")  # of the image, and the sources: an environment of the function's own adds to them
    os.environ.update(boot.env)
    here.container, here.app, here.app_name = boot.container, boot.app, boot.app_name
    here.function, here.functions, here.image, here.parcels = boot.function, boot.functions, boot.image, boot.parcels
    here.socket = os.environ[SOCKET_VARIABLE]
    if alias.wanted():
        alias.install()
    warnings.simplefilter("ignore", DeprecationError)  # about the program's spelling: said already where it was started
    # A copy of a template began with another environment than its own, so what Python does with PYTHONPATH at its start is done here.
    first = [place for place in dict.fromkeys((os.getcwd(), *os.environ.get("PYTHONPATH", "").split(":"), *search.split(":"))) if place]
    sys.path[:] = [*first, *(place for place in sys.path if place and place not in first)]


def serve(channel: Channel, boot: Boot, loaded: Service | None = None) -> None:
    """Be the container that `boot` describes. Never returns."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    settle_in(boot)
    spec = msgspec.msgpack.decode(boot.spec, type=FunctionSpec)
    here.max_inputs = spec.concurrency.max_inputs
    prints.install(lambda stream, data: channel.send(Print(0, stream, data)))
    began = time.perf_counter()
    try:
        if loaded is not None and loaded.parameters == boot.parameters:
            service = loaded
        else:
            service = load(spec, boot.parameters, boot.sources)
            service.enter = (*service.snap, *service.enter)
        imported = time.perf_counter()
        if service.needs_loop or any(method.web is not None for method in spec.methods) or spec.concurrency.max_inputs > 1:
            _serve_concurrently(channel, service, spec, imported - began)
        else:
            _serve_serially(channel, service, imported - began)
    except SystemExit as leaving:
        raise leaving
    except (EOFError, ConnectionError):
        os._exit(0)  # the agent is gone: nobody waits for anything here
    except BaseException as error:
        prints.flush()
        channel.send(StartFailed(RAISED, pack_exception(error)))
        os._exit(1)
    atexit._run_exitfuncs()  # the interpreter's own end would join threads first, which user code may never end
    prints.flush()
    os._exit(0)


def _serve_serially(channel: Channel, service: Service, import_s: float) -> None:
    server = SerialServer(channel, service)
    prints.install(server.print)
    with Hooks() as hooks:
        enter_s = hooks.run(service.enter)
        prints.flush()
        channel.send(Ready(import_s, enter_s))
        server.serve()
        hooks.run(service.leave)


def _serve_concurrently(channel: Channel, service: Service, spec: FunctionSpec, import_s: float) -> None:
    from squall.runner.concurrent import ConcurrentServer

    with Hooks() as hooks:
        server = ConcurrentServer(channel, service, spec.concurrency.max_inputs)
        prints.install(server.print, shared=True)
        enter_s = hooks.run(service.enter)
        if any(method.web is not None for method in spec.methods):
            server.web = hooks.loop().run(_start_web(service, spec))
        prints.flush()
        channel.send(Ready(import_s, enter_s))
        hooks.loop().run(server.serve())
        hooks.run(service.leave)


class Hooks:
    """Runs enter and exit hooks. Synchronous ones run outside of any event loop, async ones on the one on which async methods run too."""

    def __init__(self) -> None:
        self._runner: Any = None

    def __enter__(self) -> "Hooks":
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.close()

    def loop(self) -> Any:
        """The `asyncio.Runner`, made when something async runs first: importing it takes as long as all else here."""
        if self._runner is None:
            import asyncio

            self._runner = asyncio.Runner()
        return self._runner

    def run(self, hooks: tuple[Callable[[], Any], ...]) -> float:
        """One after the other; how many seconds they took."""
        began = time.perf_counter()
        for hook in hooks:
            value = hook()
            if inspect.isawaitable(value):
                self.loop().run(_wait(value))
        return time.perf_counter() - began


def finish(value: Any) -> None:
    """Wait for a hook's value, if it is awaitable, on an event loop of its own."""
    if inspect.isawaitable(value):
        import asyncio

        asyncio.run(_wait(value))


async def _start_web(service: Service, spec: FunctionSpec) -> Any:
    from squall.runner.web import WebMethod, WebServer

    methods = [WebMethod(method.name, service.bodies[method.name], method.web) for method in spec.methods if method.web is not None]
    web = WebServer(methods, threads=spec.concurrency.max_inputs, beside=len(methods) < len(spec.methods))
    await web.start()
    return web


async def _wait(value: Any) -> None:
    await value
