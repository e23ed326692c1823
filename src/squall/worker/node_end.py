"""A node's end of its connection with the server: it says what there is, obeys the newest generation, and sends nothing twice."""

from collections.abc import Callable, Mapping
from typing import Protocol

from squall.core.node_book import NodeBook
from squall.wire.agent import Envelope, Heartbeat, NodeHello, Order, Report, Usage


class Connection(Protocol):
    """Carries envelopes in their order, or breaks."""

    def send(self, envelope: Envelope) -> None: ...

    def close(self) -> None: ...


class LocalAgent(Protocol):
    """The agent of this machine."""

    report: Callable[[Report], None]

    def receive(self, order: Order) -> None: ...

    def hello(self) -> NodeHello: ...

    def usage(self, container: str) -> Usage | None: ...

    def runnable(self) -> int: ...


class NodeEnd:
    """Between the agent and whichever connection there is. `refused` counts orders of an older generation."""

    def __init__(self, agent: LocalAgent, generation: int = 0) -> None:
        self._agent, self.generation = agent, generation
        agent.report = self._report
        self.book = NodeBook()
        self.refused = 0
        self._connection: Connection | None = None
        self._sent = self._got = 0

    def connected(self, connection: Connection) -> None:
        """A connection is there: from now on nothing counts that came on another."""
        self._connection, self._got = connection, 0
        self.generation += 1
        self._send(self.book.hello(self.generation, self._agent.hello().containers))

    def lost(self, connection: Connection) -> None:
        """The connection has ended; another is to be made."""
        if connection is self._connection:
            self._connection = None

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    def received(self, envelope: Envelope) -> None:
        """An order has come."""
        if envelope.generation < self.generation:
            self.refused += 1
        elif self._connection is None or envelope.number <= self._got:
            pass
        elif envelope.number > self._got + 1:
            connection, self._connection = self._connection, None
            connection.close()
        else:
            self._got = envelope.number
            self.book.got(envelope.got)
            order: Order = envelope.message  # type: ignore[assignment]
            if not isinstance(order, Heartbeat):
                self.book.ordered(order)
                self._agent.receive(order)

    def beat(self) -> None:
        """To be called twice a second."""
        used: Mapping[str, Usage | None] = {name: self._agent.usage(name) for name in self.book.containers}
        self._send(Heartbeat({name: usage for name, usage in used.items() if usage is not None}, self._agent.runnable()))

    def _report(self, report: Report) -> None:
        self.book.reported(report, self._sent + 1)
        self._send(report)

    def _send(self, report: Report) -> None:
        self._sent += 1
        if self._connection is not None:
            self._connection.send(Envelope(self.generation, self._sent, self._got, report))
