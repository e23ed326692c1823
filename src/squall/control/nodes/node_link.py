"""The server's end of the link with a node's agent: orders go out, and each report goes to whoever speaks for its container."""

from collections.abc import Callable
from typing import Any, Protocol

from squall.model.errors import Error, rebuild
from squall.wire.agent import (
    BecameReady,
    ContainerRecord,
    CouldNotStart,
    Died,
    Heartbeat,
    KillContainer,
    NodeHello,
    Order,
    Report,
    StartContainer,
    Started,
    ToContainer,
    Told,
    Usage,
)
from squall.wire.runner import Print, Rejoin, Result, Revoked, StartFailed


class Listener(Protocol):
    """Told about one container, in order; the last is `could_not_start` or `died`. `result` comes before `died` for everything that the runner had finished."""

    def could_not_start(self, error: Error) -> None: ...

    def begun(self, process: Started) -> None: ...

    def ready(self, ready: BecameReady) -> None: ...

    def start_failed(self, message: StartFailed) -> None: ...

    def result(self, message: Result) -> None: ...

    def printed(self, token: int, stream: int, data: bytes) -> None: ...

    def revoked(self, message: Revoked) -> None: ...

    def rejoined(self, message: Rejoin) -> None: ...

    def died(self, death: Died) -> None: ...


class NodeAgent(Protocol):
    """The other end, in the same process: it takes orders, reports what happens, and answers questions."""

    #: Where its reports go; set by whoever makes the link.
    report: Callable[[Report], None]

    def receive(self, order: Order) -> None: ...

    def channel(self, container: str) -> Callable[[ToContainer], None]:
        """What carries out `Tell` for this one container, as long as it is there."""
        ...

    def hello(self) -> NodeHello: ...

    def usage(self, container: str) -> Usage | None: ...

    def runnable(self) -> int:
        """Threads on its machine that have a core or wait for one."""
        ...

    def explain(self, function: str) -> list[dict[str, Any]]: ...

    async def forget_app(self, app: str) -> None: ...


class NodeLink:
    """Of one node, for as long as its agent is there.

    Attributes:
        send: gives the agent an order; in one process this is the agent's own method.
        found: containers of before that the agent's hello has named, and that nobody has spoken for yet.
    """

    def __init__(self, agent: NodeAgent) -> None:
        self.agent, self.send = agent, agent.receive
        self._listeners: dict[str, Listener] = {}
        self.found: dict[str, ContainerRecord] = {}
        agent.report = self.received
        self.received(agent.hello())

    # orders

    def start(self, order: StartContainer, listener: Listener) -> Callable[[ToContainer], None]:
        """Order a container; `listener` hears of it from now on. What is returned says something to its runner."""
        self._listeners[order.container] = listener
        self.send(order)
        return self.agent.channel(order.container)

    def listen(self, container: str, listener: Listener) -> Callable[[ToContainer], None]:
        """Somebody else speaks for the container from now on; otherwise as `start`."""
        self._listeners[container] = listener
        return self.agent.channel(container)

    def kill(self, container: str) -> None:
        """End it now. Idempotent."""
        self.send(KillContainer(container))

    # reports

    def received(self, report: Report) -> None:
        """Pass it on. What is about a container that nobody speaks for changes nothing."""
        if isinstance(report, Told):  # of each call: first, and without a table
            if (listener := self._listeners.get(report.container)) is not None:
                message = report.message
                if type(message) is Result:
                    listener.result(message)
                else:
                    _SAID[type(message)](listener, message)
        elif isinstance(report, NodeHello):
            self.found.update((state.container, state.record) for state in report.containers if state.record is not None)
        elif not isinstance(report, Heartbeat) and (listener := self._listeners.get(report.container)) is not None:
            if type(report) in (Died, CouldNotStart):
                del self._listeners[report.container]
            _HAPPENED[type(report)](listener, report)


_SAID: dict[type[Any], Callable[[Listener, Any], None]] = {
    Print: lambda listener, message: listener.printed(message.token, message.stream, message.data),
    Revoked: lambda listener, message: listener.revoked(message),
    StartFailed: lambda listener, message: listener.start_failed(message),
    Rejoin: lambda listener, message: listener.rejoined(message),
}
_HAPPENED: dict[type[Any], Callable[[Listener, Any], None]] = {
    Started: lambda listener, report: listener.begun(report),
    BecameReady: lambda listener, report: listener.ready(report),
    CouldNotStart: lambda listener, report: listener.could_not_start(rebuild(report.error.code, report.error.message, report.error.details)),
    Died: lambda listener, report: listener.died(report),
}
