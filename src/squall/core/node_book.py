"""What is known of a node's containers from the orders and reports that have passed: each end of a link keeps such a book, and a hello compares the two."""

from collections import deque

import msgspec

from squall.wire.agent import (
    BecameReady,
    ContainerState,
    CouldNotStart,
    Died,
    EndedContainer,
    Finished,
    InHand,
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
from squall.wire.messages import ITEM
from squall.wire.runner import More, Rejoin, Result, Revoke, Revoked, Run, StartFailed, Stop


class Hand:
    """An attempt that a container was given. `run` is None of one that it had from an earlier agent or server."""

    __slots__ = ("credit", "items", "revoked", "run", "stopped")

    def __init__(self, run: Run | None) -> None:
        self.run = run
        self.credit = 0 if run is None else run.credit
        self.items = 0
        self.stopped = self.revoked = False


class ContainerBook:
    """Of one container."""

    def __init__(self, container: str, order: StartContainer | None = None) -> None:
        """
        Args:
            order: None: an earlier agent started it.
        """
        self.container, self.order = container, order
        self.process: Started | None = None
        self.ready: BecameReady | None = None
        self.start_failed: StartFailed | None = None
        self.rejoin: Rejoin | None = None
        self.in_hand: dict[int, Hand] = {}
        self.stopping = self.killed = False

    def told(self, message: Run | Stop | More | Revoke) -> None:
        """Its runner is told this."""
        match message:
            case Run(token):
                self.in_hand[token] = Hand(message)
            case More(token, items):
                if (hand := self.in_hand.get(token)) is not None:
                    hand.credit += items
            case Stop(()):
                self.stopping = True
            case Stop(tokens) | Revoke(tokens):
                for hand in (self.in_hand[token] for token in tokens if token in self.in_hand):
                    hand.stopped, hand.revoked = hand.stopped or type(message) is Stop, hand.revoked or type(message) is Revoke

    def said(self, message: object) -> Finished | None:
        """Its runner says this; what it has finished by that."""
        match message:
            case Result(token, status):
                hand = self.in_hand.get(token)
                if status != ITEM:
                    self.in_hand.pop(token, None)
                    return Finished(message, 0 if hand is None else hand.items)
                if hand is not None:
                    hand.items += 1
            case Revoked(tokens):
                for token in tokens:
                    self.in_hand.pop(token, None)
            case StartFailed():
                self.start_failed = message
            case Rejoin(running):
                self.rejoin = message
                for flight in running:
                    self.in_hand.setdefault(flight.token, Hand(None))
        return None

    def state(self, finished: tuple[Finished, ...]) -> ContainerState:
        """As a hello tells it."""
        hands = tuple(InHand(token, hand.items, hand.credit) for token, hand in self.in_hand.items())
        return ContainerState(self.container, None, self.process, self.ready, self.start_failed, self.rejoin, hands, finished)


class NodeBook:
    """Of all containers of a node, and of what has ended lately."""

    def __init__(self) -> None:
        self.containers: dict[str, ContainerBook] = {}
        #: Results and ends that the server may not have heard of: (number of the report, container, what).
        self._unheard: deque[tuple[int, str, Finished | EndedContainer]] = deque()

    def ordered(self, order: Order) -> None:
        """This order is given, or came."""
        match order:
            case StartContainer(container):
                self.containers.setdefault(container, ContainerBook(container, order))
            case KeepContainer(container):
                self.containers.setdefault(container, ContainerBook(container))
            case Tell(container, message):
                if (book := self.containers.get(container)) is not None:
                    book.told(message)
            case KillContainer(container):
                if (book := self.containers.get(container)) is not None:
                    book.killed = True

    def reported(self, report: Report, number: int | None = None) -> None:
        """This report is made, with this number on its way to the server; or, without one, it came."""
        book = self.containers.get(getattr(report, "container", ""))
        if book is None:
            return
        match report:
            case Started():
                book.process = report
            case BecameReady():
                book.ready = report
            case Told(_, message):
                if (finished := book.said(message)) is not None and number is not None:
                    self._unheard.append((number, report.container, finished))
            case Died() | CouldNotStart():
                del self.containers[report.container]
                if number is not None:
                    self._unheard.append((number, report.container, EndedContainer(report, book.state(()))))

    def got(self, number: int) -> None:
        """The server has had all reports up to this one."""
        while self._unheard and self._unheard[0][0] <= number:
            self._unheard.popleft()

    def hello(self, generation: int, kept: tuple[ContainerState, ...]) -> NodeHello:
        """Everything. `kept`: what an earlier agent left, and nobody has spoken for."""
        finished: dict[str, tuple[Finished, ...]] = {}
        ended: list[EndedContainer] = []
        for _, container, what in self._unheard:
            if isinstance(what, Finished):
                finished[container] = (*finished.get(container, ()), what)
            else:
                last = msgspec.structs.replace(what.last, finished=finished.get(container, ()))
                ended.append(msgspec.structs.replace(what, last=last))
        states = (book.state(finished.get(name, ())) for name, book in self.containers.items())
        return NodeHello(generation, (*kept, *states), tuple(ended))
