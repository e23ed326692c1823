"""Spawned inputs and the store: accepted before they are acknowledged, their attempts fenced by tokens, their outcomes on disk before anybody sees them.

Everything of one loop turn goes into one write. When the disk does not keep up, spawned inputs wait in their queues (`pressure`).
"""

import logging
import time
from typing import TYPE_CHECKING

from squall.control.calls.input import Caller, RoutedInput
from squall.control.faults import fault
from squall.control.retrying_writes import PAUSE_FIRST_S, PAUSE_MAX_S, persist
from squall.core.calls import dispatch
from squall.core.calls.state import StorePressure
from squall.model.errors import Error, InternalError, ResourceExhaustedError
from squall.model.ids import CallId, FunctionId
from squall.model.states import InputState
from squall.store.contract import Store
from squall.store.rows import Claim, InputRow, Outcome
from squall.wire.messages import CANCELLED, Accepted, Await

if TYPE_CHECKING:
    from squall.control.calls.pool import Pool
    from squall.control.calls.router import Router

log = logging.getLogger(__name__)

#: Results of spawned calls are kept for so long (Modal's rule), unless the server's settings say otherwise.
RESULT_KEPT_S = 7 * 24 * 3600.0
#: Beginnings and ends that may wait for the disk: a few tens of milliseconds of its work.
UNWRITTEN_MAX = 1_000
#: Outcomes that are kept in memory besides: so many, none larger than this.
RECENT_MAX, RECENT_BYTES_MAX = 10_000, 2_048


class Spawned:
    """The router's writes for inputs that the store holds."""

    def __init__(self, router: "Router", store: Store) -> None:
        self._router, self._store = router, store
        #: How long a result is kept, in seconds.
        self.kept_s = RESULT_KEPT_S
        self._accepting: list[tuple[RoutedInput, Caller]] = []
        self._claims: list[Claim] = []
        self._ended: list[tuple[RoutedInput, int, bytes]] = []
        #: Tokens of claims that found no room on the disk and will be written again.
        self._unclaimed: set[int] = set()
        #: The last pause before a write was tried again (0: the last write found room), and whether one passes now.
        self._pause_s = 0.0
        self._pausing = False
        #: Of durable inputs: none begins while it is high.
        self.pressure = StorePressure(UNWRITTEN_MAX)
        self._paused: dict[Pool, None] = {}
        #: Outcomes of the latest: most are asked for soon, and a read of the store takes a hundred times as long.
        self.recent: dict[tuple[str, int], tuple[int, bytes]] = {}

    def pause(self, pool: "Pool") -> None:
        """Drain this pool's queue when the store has caught up."""
        self._paused[pool] = None

    def accept(self, item: RoutedInput, caller: Caller) -> None:
        """Into the store with all others of this loop turn, then the answer, then the queue."""
        if not self._accepting:
            self._router.soon(lambda: self._router.own(self._accept_turn()))
        self._accepting.append((item, caller))

    async def _accept_turn(self) -> None:
        accepting, self._accepting = self._accepting, []
        now = time.time()
        rows = [
            InputRow(CallId(call.call), call.index, FunctionId(call.function), call.data, now, call.method, call.parameters, call.parent)
            for call in (item.call for item, _ in accepting)
        ]
        try:
            new = await self._store.accept(rows)
        except Exception as failed:
            error = failed if isinstance(failed, Error) else InternalError(f"the call could not be stored: {failed}")
            for item, caller in accepting:
                self._router.inputs.pop(item.key)
                caller.send(fault(item.request, error))
                # It may be one of a life before that was sent again: then it is there all the same.
                known = await self._store.input(CallId(item.call.call), item.index)
                if known is not None and known.state.live:
                    self._router.recover(known)
                self._ask_again(item)
            return
        for item, caller in accepting:
            caller.send(Accepted(item.request))
            if new < len(rows):
                # Some were sent again after a restart; those that are done already do not run again.
                known = await self._store.input(CallId(item.call.call), item.index)
                if known is not None and not known.state.live:
                    self._router.inputs.pop(item.key)
                    self._ask_again(item)
                    continue
                if known is not None:
                    self.take_up(item, known)
            self._router.queue(item)

    async def _settle(self, item: RoutedInput) -> None:
        """The store had no use for its outcome: whoever waits gets what it has, and what it still calls live is taken up from it."""
        known = await persist(lambda: self._store.input(CallId(item.call.call), item.index))
        if known is not None and known.state.live:
            self._router.recover(known)
        self._ask_again(item)

    def _ask_again(self, item: RoutedInput) -> None:
        """Who has begun to wait for an input that turned out not to be taken over waits for what the store has."""
        waiters, item.waiters = item.waiters or [], None
        for caller, request in waiters:
            self._router.waits.wait_for(Await(request, item.call.call, item.index), caller)
        waiters.clear()  # their time limits look here

    def take_up(self, item: RoutedInput, row: InputRow) -> None:
        """An input of a life before. An attempt that ran when the server died was the platform's loss, and uses up none of the user's retries."""
        item.attempts, item.lost, item.claimed = row.attempts, row.platform_retries, row.token
        if row.state is InputState.RUNNING:
            item.lost += 1
            self.lost(item)

    def lost(self, item: RoutedInput) -> None:
        """The attempt ended without an outcome, by no fault of the user's."""
        call, index, token = CallId(item.call.call), item.index, item.claimed
        self._router.own(persist(lambda: self._store.requeue(call, index, token, platform=True)))

    def claim(self, item: RoutedInput) -> None:
        """An attempt begins: its token goes to the store before any result of it can."""
        item.claimed = item.token
        self._write_soon()
        self._claims.append(Claim(CallId(item.call.call), item.index, item.token, time.time()))

    def end(self, item: RoutedInput, status: int, data: bytes) -> None:
        """Its outcome: delivered when it is on disk."""
        self._write_soon()
        self._ended.append((item, status, data))

    def _write_soon(self) -> None:
        if not self._claims and not self._ended and not self._pausing:
            self._router.soon(lambda: self._router.own(self._write_turn()))

    async def _write_turn(self) -> None:
        claims, self._claims = self._claims, []
        ended, self._ended = self._ended, []
        now = time.time()
        outcomes = [Outcome(CallId(item.call.call), item.index, item.claimed, status, data, now, now + self.kept_s) for item, status, data in ended]
        self.pressure.unwritten += len(claims) + len(ended)
        try:
            done = await self._store.progress(claims, outcomes)
        except ResourceExhaustedError as error:
            self._again(claims, ended, error)
            return
        except Error:
            log.exception("%d outcomes could not be stored", len(ended))
            done = [True] * len(ended)  # whoever waits gets them all the same
        finally:
            self.pressure.unwritten -= len(claims) + len(ended)
        self._pause_s = 0.0
        self._unclaimed.difference_update(claim.token for claim in claims)
        for (item, status, data), applied in zip(ended, done, strict=True):
            if not applied and item.claimed in self._unclaimed:
                self.end(item, status, data)
                continue
            self._router.inputs.pop(item.key)
            if applied and len(data) <= RECENT_BYTES_MAX:
                self.recent[item.key] = (status, data)
            if applied:
                self._router.deliver(item, status, data)
            elif item.pool.calls.closed:  # the end of its app has cancelled it in the store already
                self._router.deliver(item, CANCELLED, b"")
            else:
                log.warning("an outcome of %s was stale", item.key)
                self._router.own(self._settle(item))
        while len(self.recent) > RECENT_MAX:
            del self.recent[next(iter(self.recent))]
        if self._paused and not self.pressure.high:
            paused, self._paused = self._paused, {}
            for pool in paused:
                pool.feed(dispatch.drain, self._router.now())

    def _again(self, claims: list[Claim], ended: list[tuple[RoutedInput, int, bytes]], error: Error) -> None:
        """The disk has no room: nobody sees an outcome that is not on it, so all of it is written again in a while."""
        if not self._pause_s:
            log.warning("%d outcomes wait for room on the disk: %s", len(ended), error)
        self._unclaimed.update(claim.token for claim in claims)
        self._claims[:0], self._ended[:0] = claims, ended
        if not self._pausing:
            self._pausing = True
            self._pause_s = min(PAUSE_MAX_S, max(PAUSE_FIRST_S, 2 * self._pause_s))
            self._router.later(self._pause_s, self._try_again)

    def _try_again(self) -> None:
        self._pausing = False
        self._router.own(self._write_turn())
