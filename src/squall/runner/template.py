"""A template: a process with imports done that waits to be copied. It carries out the agent's orders, one after another, and ends with its agent.

An image template has this module, the runner and the SDK imported. A function template is a copy of it, in namespaces and a root file system of its own,
that has imported a user's module as well. A container is a copy of either.
"""

import contextlib
import gc
import importlib
import os
import socket
import time
from typing import Any

import msgspec

import squall
from squall.model.specs import FunctionSpec
from squall.runner import init_shared, prints, template_calls
from squall.runner import main as runner
from squall.runner.load import Service, load
from squall.runner.serial import exit_status
from squall.runner.template_checks import obstacle
from squall.runner.template_enclosure import Order
from squall.runner.template_reseed import reseed
from squall.runner.template_spawn import CONTROL_FD, pass_gate, receive, spawn, tell
from squall.wire.messages import Boot

#: What nearly every program uses of the SDK: with all that is behind these its import takes as long as the runner's, and longer than making a template.
_USUAL = ("App", "Function", "Cls", "Image", "Retries", "method", "enter")
#: Output of an import that is kept for the logs of the function's first container.
_OUTPUT_BYTES_MAX = 1 << 16


def main() -> None:
    """Of an image template. Never returns."""
    control = socket.socket(fileno=CONTROL_FD)
    control.set_inheritable(False)
    with contextlib.suppress(ImportError):  # an image may have less of Python than the SDK needs, and programs that do without
        for name in _USUAL:
            getattr(squall, name)
    Template(control, None).serve()


class Template:
    """`service`: what an instance serves; None while the user's code is not imported, then instances import for themselves."""

    def __init__(self, control: socket.socket, service: Service | None) -> None:
        self.control, self.service = control, service

    def serve(self) -> None:
        """Until the agent closes the socket. Never returns."""
        template_calls.settle()
        init_shared.prepare()
        gc.collect()
        gc.freeze()  # so that the collector of a copy does not touch, and thereby duplicate, every page
        tell(self.control, ready=True)
        try:
            while True:
                order, fds = receive(self.control)
                if order["kind"] == "import":
                    self._import(order)
                else:
                    spawn(order["kind"], socket.socket(fileno=fds[0]), self.control, self._copied)
        except (EOFError, ConnectionError):
            os._exit(0)

    def _import(self, order: Order) -> None:
        output: list[tuple[int, bytes]] = []
        prints.install(lambda stream, data: output.append((stream, data)))
        began = time.perf_counter()
        try:
            self.service = _load(bytes.fromhex(order["boot"]))
            reason = None
        except BaseException as error:
            reason = f"the import raised {type(error).__name__}: {error}"[:2000]
        prints.flush()
        import_s = time.perf_counter() - began
        if reason is None:
            template_calls.settle()
            reason = obstacle({0, 1, 2, self.control.fileno()})
        gc.collect()
        gc.freeze()
        tell(self.control, obstacle=reason, import_s=import_s, output=_shown(output))

    def _copied(self, order: Order, status: socket.socket) -> None:
        """In the copy: be what was asked for. Never returns."""
        _take_environment(order["env"])
        if order["template"]:
            importlib.invalidate_caches()  # another root file system, where the import path may hold other things
            Template(status, None).serve()
        reseed()

        def gate() -> None:
            pass_gate(status)
            status.close()

        try:
            runner.main(self.service, gate)
        except SystemExit as leaving:
            os._exit(exit_status(leaving))


def _load(packed: bytes) -> Service:
    boot = msgspec.msgpack.decode(packed, type=Boot)
    runner.settle_in(boot)
    spec = msgspec.msgpack.decode(boot.spec, type=FunctionSpec)
    service = load(spec, boot.parameters, boot.sources)
    if spec.snapshot:
        for hook in service.snap:
            runner.finish(hook())
    else:
        service.enter = (*service.snap, *service.enter)
    return service


def _take_environment(env: dict[str, str]) -> None:
    for name in os.environ.keys() - env.keys():
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _shown(output: list[tuple[int, bytes]]) -> list[Any]:
    room = _OUTPUT_BYTES_MAX
    shown: list[Any] = []
    for stream, data in output:
        shown.append((stream, data[:room].decode(errors="replace")))
        room -= len(data)
        if room <= 0:
            break
    return shown
