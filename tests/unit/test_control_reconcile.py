"""What a hello repairs: lists of what was wanted and what is there, and the orders and reports that follow."""

from typing import Any

import msgspec
import pytest

from squall.control.nodes.node_link import NodeLink
from squall.control.nodes.reconcile import reconcile
from squall.control.nodes.remote_agent import RemoteAgent
from squall.core.node_book import NodeBook
from squall.wire.agent import (
    BecameReady,
    ContainerRecord,
    ContainerState,
    CouldNotStart,
    Died,
    Envelope,
    Heartbeat,
    ImageName,
    KeepContainer,
    KillContainer,
    NodeHello,
    Order,
    Report,
    StartContainer,
    Started,
    Tell,
    Told,
)
from squall.wire.messages import FAILED, ITEM, OK, Fault, More, Rejoin, Result, Revoked, Run, StartFailed, Stop
from squall.worker.node_end import NodeEnd

START = StartContainer("ct-1", "ap-1", "app", "fu-1", b"", ImageName("im", (), {}, "/", "python", "3.11"), (), {}, {})
STARTED, READY = Started("ct-1", 12), BecameReady("ct-1", 0.1, 0.0, {})
RECORD = ContainerRecord("ct-1", "ap-1", "f", "fu-1", b"", "im", (), b"", "node", None, (), "")


def run(token: int, credit: int = 0) -> Run:
    return Run(token, "fc-1", token, b"", "", credit)


def told(message: Any) -> Told:
    return Told("ct-1", message)


def tell(message: Any) -> Tell:
    return Tell("ct-1", message)


#: A container that runs, and has attempts 1 and 2, of a generator.
LIFE: list[Any] = [START, STARTED, READY, tell(run(1)), tell(run(2, 5))]


def book(events: list[Any]) -> NodeBook:
    """Of an end that has seen these; each report is one that the server may not have got."""
    it = NodeBook()
    for number, event in enumerate(events, 1):
        if isinstance(event, (StartContainer, Tell, KillContainer, KeepContainer)):
            it.ordered(event)
        else:
            it.reported(event, number)
    return it


def repaired(server: list[Any], node: list[Any], *, kept: tuple[ContainerState, ...] = (), first: bool = False) -> tuple[list[Order], list[Report]]:
    repair = reconcile(book(server).containers, book(node).hello(2, kept), first=first)
    return repair.orders, repair.reports


def test_both_ends_agree_and_nothing_is_to_be_done() -> None:
    assert repaired(LIFE, LIFE) == ([], [])


@pytest.mark.parametrize(
    ("server", "node", "orders", "reports"),
    [
        pytest.param([], LIFE, [KillContainer("ct-1")], [], id="nobody wants it: it ends"),
        pytest.param(LIFE, [], [], [Died("ct-1")], id="it is not there any more: it is lost"),
        pytest.param([START], [], [START], [], id="its order was lost"),
        pytest.param([START, KillContainer("ct-1")], [], [], [Died("ct-1")], id="its order was lost, and it is not wanted any more"),
        pytest.param(LIFE[:1], LIFE[:3], [], [STARTED, READY], id="its start was not heard of"),
        pytest.param(LIFE, [*LIFE, Died("ct-1", 3)], [], [Died("ct-1", 3)], id="its end was not heard of"),
        pytest.param(LIFE[:1], [*LIFE[:3], Died("ct-1", 3)], [], [STARTED, READY, Died("ct-1", 3)], id="nor its start"),
        pytest.param([START], [START, CouldNotStart("ct-1", Fault(0, "x", ""))], [], [CouldNotStart("ct-1", Fault(0, "x", ""))], id="it could not start"),
        pytest.param([START], [START, STARTED, told(StartFailed(1, b""))], [], [STARTED, told(StartFailed(1, b""))], id="its import failed"),
        pytest.param(LIFE, [*LIFE, told(Result(1, OK, b"v"))], [], [told(Result(1, OK, b"v"))], id="a result was lost"),
        pytest.param([*LIFE, told(Result(1, OK, b"v"))], [*LIFE, told(Result(1, OK, b"v"))], [], [], id="a result that was delivered is not, again"),
        pytest.param(LIFE, [*LIFE, told(Result(1, OK, b"v")), Died("ct-1")], [], [told(Result(1, OK, b"v")), Died("ct-1")], id="a result, then its end"),
        pytest.param(LIFE, LIFE[:4], [tell(run(2, 5))], [], id="an input was lost"),
        pytest.param([*LIFE, tell(More(2, 3))], LIFE[:4], [tell(run(2, 5)), tell(More(2, 3))], [], id="an input and its credit"),
        pytest.param([*LIFE, tell(More(2, 3))], LIFE, [tell(More(2, 3))], [], id="credit was lost"),
        pytest.param([*LIFE, tell(Stop((1,)))], LIFE, [tell(Stop((1,)))], [], id="a cancellation was lost"),
        pytest.param([*LIFE, told(Result(1, OK, b"v"))], LIFE, [tell(Stop((1,)))], [], id="it has an attempt that is over"),
        pytest.param([*LIFE, tell(Stop())], LIFE, [tell(Stop())], [], id="its end was ordered, and that was lost"),
        pytest.param([*LIFE, KillContainer("ct-1")], LIFE, [KillContainer("ct-1")], [], id="to kill it was lost"),
        pytest.param(LIFE, [*LIFE, told(Revoked((1,)))], [tell(run(1))], [], id="it gave an input back, which was not heard of"),
        pytest.param([KeepContainer("ct-1")], [KeepContainer("ct-1"), told(Rejoin((), ()))], [], [told(Rejoin((), ()))], id="what it had at hand was lost"),
    ],
)
def test_a_hello_repairs(server: list[Any], node: list[Any], orders: list[Order], reports: list[Report]) -> None:
    assert repaired(server, node) == (orders, reports)


def test_containers_of_an_earlier_agent_are_left_to_a_server_that_is_new_and_else_end() -> None:
    kept = (ContainerState("ct-1", RECORD),)
    assert repaired([], [], kept=kept, first=True) == ([], [])
    assert repaired([], [], kept=kept) == ([KillContainer("ct-1")], [])
    assert repaired([KeepContainer("ct-1")], [], kept=kept) == ([KeepContainer("ct-1")], [])


@pytest.mark.parametrize("end", [[], [told(Result(2, OK, b""))]], ids=["it goes on", "it has ended"])
def test_a_generator_whose_items_were_lost_is_interrupted(end: list[Any]) -> None:
    orders, reports = repaired(LIFE, [*LIFE, told(Result(2, ITEM, b"a")), *end])
    (report,) = reports
    assert isinstance(report, Told) and isinstance(report.message, Result) and report.message.status == FAILED
    assert msgspec.msgpack.decode(report.message.data, type=Fault).code == "generator_interrupted"
    assert orders == ([] if end else [tell(Stop((2,)))])


def test_what_the_server_has_acknowledged_is_not_told_again() -> None:
    it = book([*LIFE, told(Result(1, OK, b"v"))])
    assert [each.result.token for each in it.hello(2, ()).containers[0].finished] == [1]
    it.got(6)
    assert it.hello(2, ()).containers[0].finished == ()


# --- the two ends ------------------------------------------------------------------------------------------------------------


class Wire:
    """A connection whose other end is the test."""

    def __init__(self) -> None:
        self.sent: list[Envelope] = []
        self.closed = False

    def send(self, envelope: Envelope) -> None:
        self.sent.append(envelope)

    def close(self) -> None:
        self.closed = True


class Local:
    """An agent that notes its orders."""

    def __init__(self) -> None:
        self.report: Any = None
        self.orders: list[Order] = []

    def receive(self, order: Order) -> None:
        self.orders.append(order)

    def hello(self) -> NodeHello:
        return NodeHello()

    def usage(self, container: str) -> None:
        return None

    def runnable(self) -> int:
        return 0


def test_a_node_refuses_orders_of_an_older_generation_and_does_none_twice() -> None:
    agent, first, second = Local(), Wire(), Wire()
    end = NodeEnd(agent)
    end.connected(first)
    end.received(Envelope(1, 1, 1, START))
    end.received(Envelope(1, 1, 1, START))
    end.connected(second)
    end.received(Envelope(1, 2, 1, KillContainer("ct-1")))  # it was under way on the connection before
    assert (agent.orders, end.refused) == ([START], 1)
    end.received(Envelope(2, 1, 2, tell(run(1))))
    assert agent.orders == [START, tell(run(1))]


def test_a_gap_in_the_numbers_ends_the_connection_at_either_end() -> None:
    agent, wire = Local(), Wire()
    end = NodeEnd(agent)
    end.connected(wire)
    end.received(Envelope(1, 2, 1, START))
    assert (agent.orders, wire.closed, end.is_connected) == ([], True, False)


async def test_the_server_closes_a_connection_that_misses_a_report_and_one_whose_hello_it_has_not_got() -> None:
    remote, wire, other = RemoteAgent(), Wire(), Wire()
    NodeLink(remote)
    remote.received(wire, Envelope(1, 1, 0, NodeHello(1)))
    remote.received(other, Envelope(2, 2, 0, Heartbeat()))
    remote.received(wire, Envelope(1, 3, 0, Heartbeat()))
    assert (wire.closed, other.closed, remote.heard.is_set()) == (True, True, True)


async def test_orders_without_a_connection_come_with_the_next_one() -> None:
    class Listener:
        def __getattr__(self, name: str) -> Any:
            return lambda message: None

    remote, wire = RemoteAgent(), Wire()
    link = NodeLink(remote)
    say = link.start(START, Listener())  # type: ignore[arg-type]
    say(run(1))
    remote.received(wire, Envelope(1, 1, 0, NodeHello(1)))
    assert [envelope.message for envelope in wire.sent] == [START]
