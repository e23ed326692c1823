"""Runs scheduled functions when they are due: at most once a tick, also over restarts."""

import asyncio
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from squall.control.calls.live_function import LiveFunction
from squall.control.calls.router import Router
from squall.core.cron import describe, missed, next_due
from squall.model.errors import InvalidError, NotFoundError
from squall.model.ids import CALL, AppId, FunctionId, make_id
from squall.model.specs import Schedule
from squall.model.states import AppState
from squall.store.contract import Store
from squall.store.rows import AppRow, ScheduleRow
from squall.wire.messages import DURABLE, Call
from squall.wire.values import dump_arguments

log = logging.getLogger(__name__)

#: The clock of a machine may be set, or the machine may sleep: so long, and the timer looks at it again.
LOOK_S = 30.0
#: A tick that the server missed by at most this is made up for once; older ones are gone. A cron that runs late by hours surprises more than one that waits.
LATE_S = 60.0


@dataclass(slots=True)
class Timer:
    """One scheduled function. Times are Unix seconds."""

    function: str
    app: str
    name: str
    schedule: Schedule
    row: ScheduleRow
    #: Kept in the store: of a deployment. A run's schedule ends with it.
    kept: bool
    due: float | None = None
    handle: asyncio.TimerHandle | None = None
    last_call: str = ""


class _Nobody:
    """Asks for a scheduled call; its outcome lies in the store."""

    gone = False

    def send(self, message: Any) -> None:
        return None


class Schedules:
    """Of all deployed apps and runs. A tick is written down before its call is made, so a server that is killed in between skips it and never runs it twice.

    Runs may overlap: a tick does not wait for the run before it. Who does not want that gives the function ``max_containers=1``.
    """

    def __init__(self, *, router: Router, store: Store) -> None:
        self.router, self.store = router, store
        self.timers: dict[str, Timer] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._nobody = _Nobody()

    async def publish(self, row: AppRow, functions: Sequence[LiveFunction], *, recovered: bool = False) -> None:
        """From now on the app's schedules are these. One that is as before goes on with its count.

        Args:
            recovered: after a restart, when a tick may have been missed.
        """
        self.withdraw(row.id, keep={function.id for function in functions if function.spec.schedule is not None})
        known = {str(schedule.id): schedule for schedule in await self.store.schedules() if schedule.app == row.id}
        now = time.time()
        rows = []
        for function in functions:
            schedule = function.spec.schedule
            if schedule is None:
                continue
            before = self.timers.get(function.id)
            stored = known.get(function.id)
            same = before is not None and before.schedule == schedule
            if stored is None or not (same or recovered):
                stored = ScheduleRow(FunctionId(function.id), AppId(row.id), now, None, stored.paused if stored is not None else False)
            timer = Timer(function.id, row.id, f"{row.name or row.description}.{function.spec.tag}", schedule, stored, row.state is AppState.DEPLOYED)
            if before is not None and before.handle is not None:
                before.handle.cancel()
            self.timers[function.id] = timer
            rows.append(stored)
            self._plan(timer, now, recovered)
        if rows and row.state is AppState.DEPLOYED:
            await self.store.save_schedules(rows)

    def withdraw(self, app: str, keep: set[str] = frozenset()) -> None:  # type: ignore[assignment]  # a set that nobody changes
        """The app has ended, or these of its functions are all that is left."""
        for function, timer in list(self.timers.items()):
            if timer.app == app and function not in keep:
                if timer.handle is not None:
                    timer.handle.cancel()
                del self.timers[function]

    def _plan(self, timer: Timer, now: float, recovered: bool) -> None:
        row = timer.row
        late = missed(timer.schedule, row.since, row.last_at, now) if recovered else None
        if late is not None and now - late <= LATE_S:
            timer.due = late
        else:
            timer.due = next_due(timer.schedule, row.since, now)
        self._set(timer, now)

    def _set(self, timer: Timer, now: float) -> None:
        if timer.due is None or timer.row.paused:
            timer.handle = None
            return
        timer.handle = asyncio.get_running_loop().call_later(min(LOOK_S, max(0.0, timer.due - now)), self._look, timer)

    def _look(self, timer: Timer) -> None:
        now = time.time()
        if self.timers.get(timer.function) is not timer or timer.due is None:
            return
        if now < timer.due:
            self._set(timer, now)
            return
        tick = timer.due
        timer.row = ScheduleRow(timer.row.id, timer.row.app, timer.row.since, tick, timer.row.paused)
        # What was slept through is one run, not one for each tick.
        timer.due = next_due(timer.schedule, timer.row.since, now)
        self._set(timer, now)
        self._own(self._fire(timer, tick))

    async def _fire(self, timer: Timer, tick: float) -> None:
        if timer.kept:
            await self.store.save_schedules([timer.row])
        call = self.call(timer)
        log.info("schedule %s: %s, tick of %s", timer.name, call, time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(tick)))

    def call(self, timer: Timer) -> str:
        """Run it now; the call's id. Its result is kept as that of a spawned call."""
        call = make_id(CALL, time.time_ns() // 1_000_000, os.urandom(10))
        timer.last_call = call
        self.router.submit(Call(1, timer.function, call, 0, dump_arguments((), {}, timer.name), hold=DURABLE), self._nobody)
        return call

    def find(self, name: str) -> list[Timer]:
        """By ``app.function``, the function's name or id, or an app's name for all of it.

        Raises:
            NotFoundError: nothing scheduled is called so.
        """
        found = [
            timer
            for timer in self.timers.values()
            if name in (timer.name, timer.function, timer.app) or timer.name.rpartition(".")[2] == name or timer.name.rpartition(".")[0] == name
        ]
        if not found:
            raise NotFoundError(f"nothing scheduled is called {name!r}; squall schedule list shows what there is")
        return found

    def one(self, name: str) -> Timer:
        """The only one of that name.

        Raises:
            NotFoundError, InvalidError: none, or several.
        """
        found = self.find(name)
        if len(found) > 1:
            raise InvalidError(f"{name!r} are {len(found)}: {', '.join(timer.name for timer in found)}; name one")
        return found[0]

    async def pause(self, name: str, paused: bool) -> list[str]:
        """Stop or go on; ticks of the time between are not made up for. The names of those that it is about."""
        timers = self.find(name)
        now = time.time()
        for timer in timers:
            if timer.handle is not None:
                timer.handle.cancel()
            timer.row = ScheduleRow(timer.row.id, timer.row.app, timer.row.since, timer.row.last_at, paused)
            timer.due = next_due(timer.schedule, timer.row.since, now)
            self._set(timer, now)
        await self.store.save_schedules([timer.row for timer in timers if timer.kept])
        return [timer.name for timer in timers]

    def rows(self) -> list[dict[str, Any]]:
        """For listings."""
        return [
            {
                "name": timer.name, "function": timer.function, "app": timer.app, "schedule": describe(timer.schedule),
                "next_at": None if timer.row.paused else timer.due, "last_at": timer.row.last_at, "paused": timer.row.paused,
                "last_call": timer.last_call or None,
            }
            for timer in sorted(self.timers.values(), key=lambda timer: timer.name)
        ]  # fmt: skip

    def _own(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a scheduled call could not be made: %s", error)

    def close(self) -> None:
        """No tick comes any more."""
        for timer in self.timers.values():
            if timer.handle is not None:
                timer.handle.cancel()
        self.timers.clear()
