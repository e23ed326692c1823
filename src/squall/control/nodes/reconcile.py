"""What should be on a node against what its hello says is there: the orders and reports that bring both together, whatever was lost on the way.

Level-triggered: nothing of it depends on what was lost, and to do it twice changes nothing. It repairs a connection that broke while both ends lived, and it
ends what a node has and nobody wants.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from squall.core.calls.generators import interrupted
from squall.core.node_book import ContainerBook
from squall.wire.agent import ContainerState, Died, EndedContainer, Finished, InHand, KeepContainer, KillContainer, NodeHello, Order, Report, Tell, Told
from squall.wire.messages import FAILED, Fault
from squall.wire.runner import More, Result, Revoke, Stop


@dataclass(slots=True)
class Repair:
    """Orders to send (again), and what those who speak for containers have not heard."""

    orders: list[Order] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)


def reconcile(wanted: Mapping[str, ContainerBook], hello: NodeHello, *, first: bool) -> Repair:
    """
    Args:
        wanted: what the server knows of the containers that it wants on this node.
        first: the server has heard nothing of this node before: containers of an earlier agent are left for it to decide on.
    """
    repair = Repair()
    there = {state.container: state for state in hello.containers}
    ended = {each.end.container: each for each in hello.ended}
    for name, state in there.items():
        book = wanted.get(name)
        if book is None:
            if state.record is None or not first:
                repair.orders.append(KillContainer(name))
        elif state.record is not None:
            repair.orders.append(KeepContainer(name))
        else:
            repair.reports += _unheard(book, state)
            repair.orders += _undone(book, state)
    for name, book in wanted.items():
        if name not in there:
            _gone(repair, book, ended.get(name))
    return repair


def _gone(repair: Repair, book: ContainerBook, ended: EndedContainer | None) -> None:
    """The node has no such container: it has ended, its order was lost, or nobody knows."""
    if ended is not None:
        repair.reports += _unheard(book, ended.last)
        repair.reports.append(ended.end)
    elif book.order is not None and book.process is None and not book.killed:
        repair.orders.append(book.order)
    else:
        repair.reports.append(Died(book.container))


def _unheard(book: ContainerBook, state: ContainerState) -> Iterator[Report]:
    """What the container has reported and the server has not got. A result goes to an attempt that is still in hand there, so to none twice."""
    if book.process is None and state.process is not None:
        yield state.process
    if book.ready is None and state.ready is not None:
        yield state.ready
    if book.start_failed is None and state.start_failed is not None:
        yield Told(book.container, state.start_failed)
    if book.rejoin is None and state.rejoin is not None:
        yield Told(book.container, state.rejoin)
    yield from _results(book, state.finished)
    for hand in state.in_hand:
        if _lost_items(book, hand):
            yield _interrupted(book, hand.token)


def _results(book: ContainerBook, finished: tuple[Finished, ...]) -> Iterator[Told]:
    for each in finished:
        if (hand := book.in_hand.get(each.result.token)) is not None:
            yield Told(book.container, each.result) if each.items == hand.items else _interrupted(book, each.result.token)


def _interrupted(book: ContainerBook, token: int) -> Told:
    fault = interrupted("a generator", book.in_hand[token].items, book.container)
    return Told(book.container, Result(token, FAILED, msgspec.msgpack.encode(Fault(0, fault.code, str(fault), fault.details()))))


def _undone(book: ContainerBook, state: ContainerState) -> Iterator[Order]:
    """What the container was ordered and has not got."""
    has = {hand.token for hand in state.in_hand}
    known = has | {each.result.token for each in state.finished}
    if book.killed:
        yield KillContainer(book.container)
        return
    for token, hand in book.in_hand.items():
        if token not in known and hand.run is not None:
            yield Tell(book.container, hand.run)
            if hand.credit > hand.run.credit:
                yield Tell(book.container, More(token, hand.credit - hand.run.credit))
    for each in state.in_hand:
        mine = book.in_hand.get(each.token)
        if mine is not None and mine.credit > each.credit and not _lost_items(book, each):
            yield Tell(book.container, More(each.token, mine.credit - each.credit))
    stop = tuple(each.token for each in state.in_hand if each.token not in book.in_hand or book.in_hand[each.token].stopped or _lost_items(book, each))
    if stop:
        yield Tell(book.container, Stop(stop))
    revoked = tuple(token for token, hand in book.in_hand.items() if hand.revoked and token not in stop)
    if revoked:
        yield Tell(book.container, Revoke(revoked))
    if book.stopping:
        yield Tell(book.container, Stop())


def _lost_items(book: ContainerBook, hand: InHand) -> bool:
    """Items of its generator were lost on the way: its caller can't get the rest without them."""
    wanted = book.in_hand.get(hand.token)
    return wanted is not None and wanted.items != hand.items
