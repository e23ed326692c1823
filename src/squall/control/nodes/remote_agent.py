"""The server's end of a connection with an agent on another machine: in the place of the agent itself, whatever the connection does."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from squall.control.nodes.reconcile import reconcile
from squall.core.node_book import NodeBook
from squall.wire.agent import Envelope, Heartbeat, NodeHello, Order, Report, Tell, ToContainer, Usage


class Connection(Protocol):
    """Carries envelopes in their order, or breaks."""

    def send(self, envelope: Envelope) -> None: ...

    def close(self) -> None: ...


class RemoteAgent:
    """Implements `NodeAgent`. While no connection is there, orders are noted: the next hello is answered with what the node lacks.

    Output that was under way when a connection broke is lost, and a generator whose items were is interrupted.
    """

    def __init__(self) -> None:
        self.report: Callable[[Report], None] = lambda report: None
        self.book = NodeBook()
        self._connection: Connection | None = None
        self._generation = self._sent = self._got = 0
        #: Set when the machine has said what it has.
        self.heard = asyncio.Event()
        self._last = Heartbeat()

    # NodeAgent

    def receive(self, order: Order) -> None:
        self.book.ordered(order)
        self._post(order)

    def channel(self, container: str) -> Callable[[ToContainer], None]:
        return lambda message: self.receive(Tell(container, message))

    def hello(self) -> NodeHello:
        """Of a machine that has not said anything yet."""
        return NodeHello()

    def usage(self, container: str) -> Usage | None:
        """As its last heartbeat said."""
        return self._last.usage.get(container)

    def runnable(self) -> int:
        return self._last.runnable

    def explain(self, function: str) -> list[dict[str, Any]]:
        """Another machine is not asked for its templates."""
        return []

    async def forget_app(self, app: str) -> None:
        """An agent forgets the templates of an app when it needs their room."""

    # the connection

    def received(self, connection: Connection, envelope: Envelope) -> None:
        """An envelope has come. A newer connection replaces one that this end has not missed yet; what still comes on that one changes nothing."""
        message = envelope.message
        if isinstance(message, NodeHello):
            if message.generation > self._generation:
                self._begin(connection, envelope, message)
        elif connection is not self._connection:
            connection.close()  # its hello was lost, or it has been replaced
        elif envelope.number <= self._got:
            pass
        elif envelope.number > self._got + 1:
            self.lost(connection)
            connection.close()
        else:
            self._got = envelope.number
            if isinstance(message, Heartbeat):
                self._last = message
                self._post(Heartbeat())
            else:
                self._take(message)  # type: ignore[arg-type]

    def lost(self, connection: Connection) -> None:
        """The connection has ended."""
        if connection is self._connection:
            self._connection = None

    def _begin(self, connection: Connection, envelope: Envelope, hello: NodeHello) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._generation, self._sent, self._got = connection, hello.generation, 0, envelope.number
        repair = reconcile(self.book.containers, hello, first=not self.heard.is_set())
        if not self.heard.is_set():
            self.heard.set()
            self.report(hello)
        for order in repair.orders:
            self._post(order)
        for report in repair.reports:
            self._take(report)

    def _take(self, report: Report) -> None:
        self.book.reported(report)
        self.report(report)

    def _post(self, order: Order) -> None:
        if self._connection is not None:
            self._sent += 1
            self._connection.send(Envelope(self._generation, self._sent, self._got, order))
