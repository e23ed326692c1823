"""What became of the latest inputs: in memory, bounded, for listings, and written down in pieces for the next start. Spawned ones have rows besides."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from squall.control.calls.explain import describe, start_phases
from squall.control.calls.input import RoutedInput
from squall.model.errors import BY_CODE, Error
from squall.model.ids import CallId
from squall.store.contract import Store
from squall.store.rows import InputRow
from squall.wire.messages import CANCELLED, FAILED, OK, RAISED, Fault

if TYPE_CHECKING:
    from squall.control.calls.pool_container import Member
    from squall.control.calls.router import Router

#: Ended inputs that are remembered: about 20 MiB.
KEPT = 50_000
#: Of these a restarted server knows the newest: reading them takes it a tenth of a second.
LOADED = 10_000
#: They are written to the store together: so long after the first of them ended, or when there are so many.
SAVE_S, SAVE_MAX = 1.0, 2_000
#: Ended containers whose counts are remembered.
COUNTS_KEPT = 20_000
#: Characters of an error.
_ERROR_MAX = 300

_STATES = {OK: "succeeded", RAISED: "failed", FAILED: "failed", CANCELLED: "cancelled"}


class _Head(msgspec.Struct, array_like=True):
    """The beginning of a `Raised`."""

    type_name: str
    message: str


def error_of(status: int | None, data: bytes) -> str | None:
    """Of a failed input: the class of the exception and its message, as one line; None for others, and where that lies in a file."""
    try:
        if status == RAISED:
            head = msgspec.msgpack.decode(data, type=_Head)
            name = head.type_name.removeprefix("builtins.")
            text = f"{name}: {head.message}" if head.message else name
        elif status == FAILED:
            fault = msgspec.msgpack.decode(data, type=Fault)
            text = f"{BY_CODE.get(fault.code, Error).__name__}: {fault.message}"
        else:
            return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # code in the container may send anything
        return None
    return "".join(char if char.isprintable() else " " for char in text[:_ERROR_MAX])


class _Past(NamedTuple):
    """A container of an earlier server."""

    id: str
    module: str


class _Piece(msgspec.Struct, array_like=True):
    """What is written at a time. Records are as in memory, but with times of the wall's clock, and the container by its id and its function's module."""

    records: list[tuple[Any, ...]]
    #: Inputs that these containers have done in all, and all containers.
    done: dict[str, int]
    total: int


class History:
    """Ended inputs, the newest last; without a store, in memory only. A record is a tuple, since one is made for each input on the hot path."""

    def __init__(self, store: Store | None, own: Callable[[Awaitable[Any]], None]) -> None:
        self._store, self._own = store, own
        self._loop = asyncio.get_running_loop()
        self._ended: deque[tuple[Any, ...]] = deque(maxlen=KEPT)
        #: Of the last records: not given to the store yet.
        self._unsaved = 0
        self._saving: asyncio.TimerHandle | None = None
        #: Ended inputs, of all time; and by container, of those that have ended or were there before a restart.
        self.total = 0
        self.done: dict[str, int] = {}

    async def load(self) -> None:
        """What an earlier server has written; once, before anything ends."""
        offset = time.time() - self._loop.time()
        for data in await self._store.history(LOADED) if self._store is not None else ():
            try:
                piece = msgspec.msgpack.decode(data, type=_Piece)
            except msgspec.DecodeError:  # of a newer version
                continue
            self.total = piece.total
            self.done.update(piece.done)
            for call, index, tag, app, status, created, started, ended, attempts, lost, parent, container, module, error in piece.records:
                past = _Past(container, module) if container else None
                self._ended.append((call, index, tag, app, status, created - offset, started - offset, ended - offset, attempts, lost, parent, past, error))

    def ended(self, item: RoutedInput, status: int, data: bytes, now: float) -> None:
        """Remember an input's end; `status` and `data` as in the wire's `Output`."""
        pool, call, member = item.pool, item.call, item.member
        error = item.failure if status == OK else error_of(status, data)
        if status == OK and error is not None:
            status = FAILED
        self._ended.append(
            (
                call.call,
                item.index,
                pool.spec.tag,
                pool.function.app,
                status,
                item.created,
                item.started,
                now,
                item.attempts,
                item.lost,
                call.parent,
                member,
                error,
            )
        )
        self.total += 1
        if self._store is None:
            return
        self._unsaved += 1
        if self._unsaved == 1:
            self._saving = self._loop.call_later(SAVE_S, self.save)
        elif self._unsaved >= SAVE_MAX:
            self.save()

    def forget(self, age_s: float) -> None:
        """Drop what ended longer ago than this."""
        before = self._loop.time() - age_s
        while self._ended and self._ended[0][7] < before:
            self._ended.popleft()
        self._unsaved = min(self._unsaved, len(self._ended))

    def container_gone(self, member: "Member") -> None:
        """Its count outlives it."""
        self.done[member.id] = member.inputs_done
        if len(self.done) > COUNTS_KEPT:
            del self.done[next(iter(self.done))]

    def save(self) -> None:
        """Give the store what it does not have yet."""
        if self._saving is not None:
            self._saving.cancel()
        self._saving = None
        if not self._unsaved or self._store is None:
            return
        offset = time.time() - self._loop.time()
        new = list(islice(reversed(self._ended), self._unsaved))[::-1]
        self._unsaved = 0
        records: list[tuple[Any, ...]] = []
        done: dict[str, int] = {}
        for call, index, tag, app, status, created, started, ended, attempts, lost, parent, member, error in new:
            container, module = "", ""
            if member is not None:
                container, module = member.id, member.pool.spec.module
                done[container] = member.inputs_done
            records.append(
                (call, index, tag, app, status, created + offset, started + offset, ended + offset, attempts, lost, parent, container, module, error)
            )  # fmt: skip
        self._own(self._store.keep_history(time.time(), len(records), msgspec.msgpack.encode(_Piece(records, done, self.total))))

    def rows(self, router: "Router", *, app: str = "", call: str = "", limit: int = 100) -> list[dict[str, Any]]:
        """Live inputs, then ended ones, the newest first; of one call with their stories: what happened to each, and how many seconds ago."""
        live = router.inputs.of_call(call) if call else router.inputs.newest()
        rows = [describe(item, router) for item in islice((item for item in live if not app or item.pool.function.app == app), limit)]
        for record in reversed(self._ended):
            if len(rows) >= limit:
                break
            if (not app or record[3] == app) and (not call or record[0] == call):
                rows.append(_row(record, router.now()))
        if call:
            for row in rows:
                row["story"] = [{"ago_s": router.now() - at, "what": what} for at, what in router.story.of(call, row["index"])]
        return rows

    def graph_rows(self) -> "Iterator[dict[str, Any]]":
        """All that is remembered, as nodes of call graphs."""
        for call, index, tag, _app, status, _created, _started, _ended, _attempts, _lost, parent, member, _error in self._ended:
            container = "" if member is None else member.id
            module = "" if member is None else member.module if isinstance(member, _Past) else member.pool.spec.module
            state = _STATES.get(status, "failed")
            yield {"call": call, "index": index, "state": state, "function": tag, "module": module, "container": container, "parent": parent}

    def apps_of(self, call: str) -> set[str]:
        """The apps of the call's inputs, as far as they are remembered."""
        return {record[3] for record in self._ended if record[0] == call}

    def calls(self) -> set[str]:
        """Ids of the calls that are remembered."""
        return {record[0] for record in self._ended}


def _row(record: tuple[Any, ...], now: float) -> dict[str, Any]:
    call, index, tag, app, status, created, started, ended, attempts, lost, parent, member, error = record
    wall = time.time() - now
    began = started if started >= created else ended
    return {
        "call": call, "index": index, "function": tag, "app": app, "state": _STATES.get(status, "failed"), "created_at": wall + created,
        "ended_at": wall + ended, "attempts": attempts, "lost": lost, "container": member.id if member is not None else None, "parent": parent or None,
        "queued_s": began - created, "running_s": ended - began, "error": error,
        "start": None if member is None or isinstance(member, _Past) else start_phases(member),
    }  # fmt: skip


async def stored(router: "Router", call: str) -> list[dict[str, Any]]:
    """A spawned call's inputs as the store has them."""
    return [_stored_row(row, router) for row in await router.store.call_inputs(CallId(call))]


def _stored_row(row: InputRow, router: "Router") -> dict[str, Any]:
    function = router.functions.get(row.function)
    return {
        "call": row.call, "index": row.index, "function": function.spec.tag if function is not None else row.function,
        "app": function.app if function is not None else None, "state": str(row.state), "created_at": row.created_at, "ended_at": row.finished_at,
        "attempts": row.attempts, "lost": row.platform_retries, "container": None, "parent": row.parent or None,
        "queued_s": row.started_at - row.created_at if row.started_at is not None else None,
        "running_s": row.finished_at - row.started_at if row.started_at is not None and row.finished_at is not None else None, "start": None,
        "error": error_of(row.status, row.output or b""),
    }  # fmt: skip
