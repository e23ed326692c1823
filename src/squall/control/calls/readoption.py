"""Containers that outlived a server: they wait here until their function is known again, and become members of its pool with what they have at hand."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from squall.control.calls.input import RoutedInput
from squall.control.calls.live_function import LiveFunction
from squall.control.calls.pool_container import Member
from squall.control.faults import pack_fault
from squall.control.nodes.node_link import NodeLink
from squall.control.retrying_writes import persist
from squall.core.calls import dispatch
from squall.core.calls.generators import interrupted
from squall.core.placement import Placement
from squall.model.errors import Error
from squall.model.ids import ContainerId, made_at
from squall.model.options import words
from squall.model.specs import FunctionSpec
from squall.model.states import ContainerState
from squall.store.rows import InputRow
from squall.wire.agent import BecameReady, ContainerRecord, Died, KeepContainer, Started
from squall.wire.messages import CANCELLED, DURABLE, FAILED, LIVE, OK, Call, Flight, Landed, LogChunk, Rejoin, Result, Revoked, StartFailed, Stop

if TYPE_CHECKING:
    from squall.control.calls.pool import Pool
    from squall.control.calls.router import Router

log = logging.getLogger(__name__)

#: A runner hears of the new server at once, unless it is in the middle of a long call into C, or frozen: then its container is given up after this.
REJOIN_S = 10.0

#: Attempts of live inputs are not in the store, so a runner may speak of more than that has; but not of so many.
TOKENS_AHEAD = 1 << 32

Key = tuple[str, int]


class Returning:
    """Implements the `Listener` of its node's link for one container whose function is not known yet."""

    def __init__(self, returns: "Returns", record: ContainerRecord, placement: Placement, link: NodeLink) -> None:
        self.returns, self.record, self.placement, self.link = returns, record, placement, link
        self.id = ContainerId(record.container)
        self.process: Started | None = None
        #: What its runner said that it has; None until it has come.
        self.rejoin: Rejoin | None = None
        self.settled = asyncio.Event()
        self.given_up = ""
        #: What the store has of the inputs that it speaks of.
        self.rows: dict[Key, InputRow] = {}
        #: What came since then, for its pool.
        self.messages: list[Callable[[Member], None]] = []

    def rejoined(self, message: Rejoin) -> None:
        self.rejoin = message
        self.settled.set()

    def could_not_start(self, error: Error) -> None:
        raise AssertionError("it had started")

    def begun(self, process: Started) -> None:
        self.process = process

    def ready(self, ready: BecameReady) -> None:
        """It was."""

    def start_failed(self, message: StartFailed) -> None:
        """It had started."""

    def result(self, message: Result) -> None:
        self.messages.append(lambda member: member.result(message))

    def revoked(self, message: Revoked) -> None:
        self.messages.append(lambda member: member.revoked(message))

    def printed(self, token: int, stream: int, data: bytes) -> None:
        at_hand = self.rejoin.running if self.rejoin is not None else ()
        owner = next((f"in-{flight.call[3:]}-{flight.index}" for flight in at_hand if token and flight.token == token), "")
        self.returns.router.logs.write(self.record.app, LogChunk(0, self.id, self.record.tag, stream, data, time.time(), owner))

    def died(self, death: Died) -> None:
        self.settled.set()
        self.returns.lost(self)


class Returns:
    """The router's containers of before a restart."""

    def __init__(self, router: "Router") -> None:
        self.router = router
        self._back: dict[str, Returning] = {}

    def begin(self) -> None:
        """Take back what the agents have found, once, before anything is placed."""
        router = self.router
        for node in router.room.nodes:
            link = router.link_of(node)
            found, link.found = link.found, {}
            for record in found.values():
                placement = Placement(node, _spec(record).resources, record.gpu_type, record.devices)
                placement.take()
                back = self._back[record.container] = Returning(self, record, placement, link)
                link.listen(record.container, back)
                link.send(KeepContainer(record.container))

    def __contains__(self, container: str) -> bool:
        return container in self._back

    async def wait(self, app: str) -> None:
        """Until each container of the app has come back or is given up. The app's functions are to be added next."""
        mine = [back for back in self._back.values() if back.record.app == app]
        with suppress(TimeoutError):
            async with asyncio.timeout(REJOIN_S):
                for back in mine:
                    await back.settled.wait()
        for back in mine:
            if back.rejoin is None:
                self._give_up(back, "did not come back after a restart of the server")
                continue
            at_hand: list[Flight | Landed] = [*back.rejoin.running, *back.rejoin.ended]
            if any(each.token > self.router.highest_token + TOKENS_AHEAD for each in at_hand):
                self._give_up(back, "spoke of attempts that there can't have been")
                continue
            self.router.raise_token(max((each.token for each in at_hand), default=0))
            rows = await self.router.store.known_inputs([(each.call, each.index) for each in at_hand])
            back.rows = {(row.call, row.index): row for row in rows}

    def hand_over(self, function: LiveFunction, pool_of: "Callable[[bytes], Pool]") -> None:
        """The function is there again: its containers become members of its pools."""
        mine = [back for back in self._back.values() if back.record.function == function.id and not back.given_up]
        newest: dict[Key, int] = {}
        for back in mine:
            if back.rejoin is not None:
                for flight in back.rejoin.running:
                    key = (flight.call, flight.index)
                    newest[key] = max(newest.get(key, 0), flight.token)
        for back in mine:
            if back.rejoin is None or not _fits(back.record, function):
                self._give_up(back, "its function is another since the server was restarted")
                continue
            del self._back[back.id]
            self._readmit(back, back.rejoin, pool_of(back.record.parameters), newest)

    def _readmit(self, back: Returning, rejoin: Rejoin, pool: "Pool", newest: dict[Key, int]) -> None:
        router, record = self.router, back.record
        now = router.now()
        member = Member(back.id, pool, back.placement, now)
        member.process, member.state, member.recorded = back.process, ContainerState.READY, ContainerState.READY
        member.inputs_done = router.history.done.get(back.id, 0)
        member.ready_at, member.import_s, member.enter_s = now, record.import_s, record.enter_s
        pool.join(member)
        member.tell = back.link.listen(member.id, member)
        stale = []
        for flight in rejoin.running:
            key = (flight.call, flight.index)
            item = self._item(pool, member, flight, back.rows.get(key)) if flight.token >= newest[key] else None
            if item is None:
                stale.append(flight.token)
                continue
            item.started = now - (flight.seconds or 0.0)
            item.created = min(item.created, item.started)
            if next((method.is_generator for method in pool.spec.methods if method.name == flight.method), False):
                # The server before knew how many items its client has had. Some, it has to be assumed, so it isn't run again.
                item.delivered = 1
                pool.cancel(item, interrupted(words(pool.spec.tag), None, member.id))
        if stale:
            member.tell(Stop(tuple(stale)))
        for landed in rejoin.ended:
            self._take_outcome(pool, member, landed, back.rows.get((landed.call, landed.index)))
        for tell in back.messages:
            tell(member)
        pool.feed(dispatch.readopt, member, now, ending=rejoin.leaving)

    def _take_outcome(self, pool: "Pool", member: Member, landed: Landed, row: InputRow | None) -> None:
        """An outcome that the earlier server may have taken along. What was stored or delivered is known as such: by its row, or since nobody asks again."""
        router = self.router
        if row is not None:
            if (item := self._item(pool, member, landed, row)) is not None:
                item.started = router.now() - landed.seconds  # about: it may have ended a while ago
                item.created = min(item.created, item.started)
                member.result(Result(landed.token, landed.status, landed.data, landed.seconds))
            return
        if landed.status == CANCELLED:
            return  # who cancelled it does not ask; for whoever asks it was stopped for a reason that the earlier server took along, so it runs again
        if (landed.call, landed.index) not in router.inputs and (landed.status == OK or pool.spec.retries is None):
            status, data = landed.status, landed.data
            if status == OK and not data:  # the end of a generator, whose items went to the server before
                status, data = FAILED, pack_fault(interrupted(words(pool.spec.tag), None, member.id))
            router.kept.keep((landed.call, landed.index), status, data)

    def _item(self, pool: "Pool", member: Member, at: Flight | Landed, row: InputRow | None) -> RoutedInput | None:
        """The input of an attempt that goes on; None when it is stale."""
        router = self.router
        if (at.call, at.index) in router.inputs or (row is not None and (not row.state.live or row.token > at.token)):
            return None
        if row is not None and row.function != pool.function.id:  # another function's, for all that its id became known
            return None
        method = row.method if row is not None else at.method if isinstance(at, Flight) else ""
        data, parent = (row.data, row.parent) if row is not None else (b"", "")
        call = Call(0, pool.function.id, at.call, at.index, data, method, LIVE if row is None else DURABLE, 0, pool.parameters, parent)
        made = row.created_at if row is not None else made_at(at.call)
        item = RoutedInput(call, pool, None, router.now() - max(0.0, time.time() - made if made is not None else 0.0))
        router.inputs[item.key] = item
        pool.feed(dispatch.readopt_input, member, item, at.token, router.now())
        if row is not None:
            if row.token == at.token:
                item.attempts, item.lost, item.claimed = row.attempts, row.platform_retries, row.token
            else:  # the server died before this attempt was on disk, and took along how the one before had ended
                router.spawned.take_up(item, row)
                item.attempts += 1
                router.spawned.claim(item)
        return item

    def abandon(self, app: str) -> None:
        """Containers of the app that no function of it wanted end."""
        for back in list(self._back.values()):
            if back.record.app == app:
                self._give_up(back, "nobody came back for it after a restart of the server")

    def _give_up(self, back: Returning, why: str) -> None:
        if not back.given_up:
            back.given_up = why
            back.link.kill(back.id)

    def lost(self, back: Returning) -> None:
        """It has ended before its function came."""
        del self._back[back.id]
        back.placement.give_back()
        router = self.router
        router.logs.close(back.id)
        router.room.given_back()
        reason = back.given_up or "lost"
        router.own(persist(partial(router.store.set_container_state, back.id, ContainerState.STOPPED, time.time(), reason=reason)))


def _spec(record: ContainerRecord) -> FunctionSpec:
    import msgspec

    return msgspec.msgpack.decode(record.packed_spec, type=FunctionSpec)


def _fits(record: ContainerRecord, function: LiveFunction) -> bool:
    """Whether a container runs what the function is now."""
    return (record.packed_spec, record.image, record.layers) == (function.packed, function.image.id, function.layer_names)
