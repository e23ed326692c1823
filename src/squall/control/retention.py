"""What the server keeps, for how long, and the task that removes the rest in small pieces while calls go on."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from squall.control.calls.durable_inputs import RESULT_KEPT_S
from squall.control.calls.history import LOADED
from squall.control.objects.dicts import EXPIRY_S
from squall.model.errors import Error, InvalidError
from squall.store.contract import Store

log = logging.getLogger(__name__)

DAY_S, GIB = 86_400.0, 1 << 30
#: The first sweep comes so long after a start, whose clients come first; then they come with this period.
FIRST_S, SWEEP_S = 5.0, 600.0
#: A piece of work takes about so long, in which other writes wait, and is followed by a rest of so many times its length.
PIECE_S, REST = 0.004, 4.0
PIECE_FIRST, PIECE_MIN, PIECE_MAX = 100, 20, 2_000
#: Free bytes that a SQLite file keeps for the next rows, as a part of what is used; and how many are given back in one piece.
SLACK, COMPACT_PIECE = 0.25, 256 << 10
#: A count of all rows serves so long: a monitor may ask for the status each second.
COUNTED_S = 30.0
#: The newest versions of an app can be rolled back to, however old they are.
VERSIONS_KEPT = 20
#: Where the database is too large, results go before their time, but none younger than this.
RESULT_MIN_S = DAY_S


@dataclass(frozen=True, slots=True)
class Settings:
    """How long things are kept, in seconds. `history_rows`: at most so many ended inputs without a result, stopped containers, and events."""

    results_s: float = RESULT_KEPT_S
    runs_s: float = 7 * DAY_S
    history_s: float = 30 * DAY_S
    history_rows: int = 1_000_000
    database_bytes: float = 4 * GIB
    logs_s: float = 30 * DAY_S


def from_environment(environ: Mapping[str, str]) -> Settings:
    """
    Raises:
        InvalidError: a variable is not a positive number.
    """

    usual = Settings()
    return Settings(
        results_s=positive(environ, "SQUALL_RESULTS_DAYS", DAY_S, usual.results_s),
        runs_s=positive(environ, "SQUALL_RUNS_DAYS", DAY_S, usual.runs_s),
        history_s=positive(environ, "SQUALL_HISTORY_DAYS", DAY_S, usual.history_s),
        history_rows=max(1, int(positive(environ, "SQUALL_HISTORY_ROWS", 1, usual.history_rows))),
        database_bytes=positive(environ, "SQUALL_DATABASE_MAX_GIB", GIB, usual.database_bytes),
        logs_s=positive(environ, "SQUALL_LOGS_DAYS", DAY_S, usual.logs_s),
    )


def positive(environ: Mapping[str, str], name: str, unit: float, default: float) -> float:
    """The number that a variable holds, in units of `unit`; `default` where it is not set.

    Raises:
        InvalidError: it is not a positive number.
    """
    text = environ.get(name, "")
    try:
        value = float(text) * unit if text else default
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InvalidError(f"{name}={text!r} is not a positive number")
    return value


class Retention:
    """Sweeps the store from `open` to `close`."""

    def __init__(
        self, store: Store, settings: Settings, *, forget: Callable[[], None] = lambda: None, sweep_logs: Callable[[float], int] = lambda before: 0
    ) -> None:
        self.store, self.settings = store, settings
        #: Remove logs that were last written to before a time; how many files.
        self._sweep_logs = sweep_logs
        #: Drop what is remembered of results outside of the store.
        self._forget = forget
        self._task: asyncio.Task[None] | None = None
        self._kept: dict[str, int] = {}
        self._counted_until = 0.0

    def open(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="retention")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                await self.sweep(time.time())
            except Error:
                log.exception("old rows could not be removed; this is tried again in %.0f minutes", SWEEP_S / 60)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self, now: float) -> dict[str, int]:
        """Bring the database within its retention; how many rows of each kind were removed (of results: without their row)."""
        keep, store = self.settings, self.store
        history = now - keep.history_s
        # `expires_at` says when a result goes; its row goes so much later.
        inputs = max(now - max(0.0, keep.history_s - keep.results_s), await store.inputs_beyond(keep.history_rows) or 0.0)
        containers = max(history, await store.containers_beyond(keep.history_rows) or 0.0)
        events = max(history, await store.events_beyond(keep.history_rows) or 0.0)
        removed = {
            "inputs": await pieces(lambda limit: store.delete_inputs(inputs, limit)),
            "results": await pieces(lambda limit: store.expire(now, limit)),
            "containers": await pieces(lambda limit: store.delete_containers(containers, limit)),
            "apps": await pieces(lambda limit: store.delete_apps(now - keep.runs_s, history, limit)),
            "versions": await pieces(lambda limit: store.delete_deployments(history, VERSIONS_KEPT, limit)),
            "events": await pieces(lambda limit: store.delete_events(events, limit)),
            "pieces of history": await store.trim_history(min(keep.history_rows, LOADED), history),
            "dict entries": await pieces(lambda limit: store.dict_expire(now - EXPIRY_S, limit)),
            "files of logs": self._sweep_logs(now - keep.logs_s),
            "results before their time": await self._shrink(now),
        }
        if any(removed[kind] for kind in ("inputs", "results", "pieces of history", "results before their time")):
            self._forget()
        await self._compact()
        if any(removed.values()):
            log.info("removed what is older than it is kept: %s", ", ".join(f"{count} {kind}" for kind, count in removed.items() if count))
        return removed

    async def _shrink(self, now: float) -> int:
        """Remove the oldest ended inputs, results and all, while the rows of a SQLite database take more than they may."""
        before, removed = now + self.settings.results_s - RESULT_MIN_S, 0
        while (size := await self.store.size()).free_bytes is not None and size.bytes - size.free_bytes > self.settings.database_bytes:
            began = time.monotonic()
            done = await self.store.delete_inputs(before, PIECE_MIN)  # few at a time: one result may be as large as a thousand others
            if not done:
                break
            removed += done
            await asyncio.sleep(REST * (time.monotonic() - began))
        if removed:
            log.warning("the database is larger than SQUALL_DATABASE_MAX_GIB: %d results went before their time", removed)
        return removed

    async def _compact(self) -> None:
        size = await self.store.size()
        if size.free_bytes is None:
            return
        spare = max(SLACK * (size.bytes - size.free_bytes), 16 * COMPACT_PIECE)
        free = before = size.free_bytes
        while free > spare:
            began = time.monotonic()
            free = await self.store.compact(COMPACT_PIECE)
            if free >= before:  # a file of an earlier version, which can't shrink: its next rows use what is free
                return
            before = free
            await asyncio.sleep(REST * (time.monotonic() - began))

    async def facts(self) -> dict[str, Any]:
        """What is kept, how large it is, and for how long: for `squall server status`."""
        if time.monotonic() >= self._counted_until:
            self._counted_until = time.monotonic() + COUNTED_S
            self._kept = {kept.kind: kept.rows for kept in await self.store.kept()}
        size, keep = await self.store.size(), self.settings
        limits = {"results_days": keep.results_s / DAY_S, "runs_days": keep.runs_s / DAY_S, "history_days": keep.history_s / DAY_S}
        limits["logs_days"] = keep.logs_s / DAY_S
        limits |= {"history_rows": keep.history_rows, **({} if size.free_bytes is None else {"database_gib": keep.database_bytes / GIB})}
        return {"database_bytes": size.bytes, "database_free_bytes": size.free_bytes, "kept": self._kept, "retention": limits}


async def pieces(work: Callable[[int], Awaitable[int]]) -> int:
    """Do work in pieces until one finds less to do than it may; how much was done.

    A piece is as large as takes `PIECE_S`, the wait for other writers included: where they are many, the pieces are small.
    """
    total, limit = 0, PIECE_FIRST
    while True:
        began = time.monotonic()
        done = await work(limit)
        took = time.monotonic() - began
        total += done
        if done < limit:
            return total
        limit = max(PIECE_MIN, min(PIECE_MAX, 2 * limit, int(limit * PIECE_S / max(took, 1e-6))))
        await asyncio.sleep(REST * took)
