"""Hypothesis against the leases of apps, on a virtual clock: an app lives while somebody holds it, and for its lease after; and defects are found."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from squall.control.apps.apps import LEASE_S, Apps
from squall.model.errors import NotFoundError
from squall.model.ids import AppId
from squall.model.states import AppState
from squall.store.rows import AppRow
from squall.testing.virtual import VirtualLoop


class _Around:
    """The router and the store, as far as the end of an app needs them. Ending takes a while."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def end_app(self, app: str, reason: str, *, keep: bool = False) -> None:
        await asyncio.sleep(0.5)
        self.ended.append(app)

    async def set_app_state(self, app: AppId, state: AppState, now: float) -> bool:
        return True


class Machine(RuleBasedStateMachine):
    apps_type: type[Apps] = Apps

    @initialize(detached=st.lists(st.booleans(), min_size=2, max_size=2))
    def begin(self, detached: list[bool]) -> None:
        self.loop = VirtualLoop()
        self.around = _Around()
        self.held: dict[str, set[int]] = {}
        self.left: dict[str, float] = {}
        self.detached = {f"ap-{number}": one for number, one in enumerate(detached)}
        self.inside(self.start)

    def inside(self, what: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return what()

        return self.loop.run_until_complete(run())

    def start(self) -> None:
        self.apps = self.apps_type(router=cast(Any, self.around), store=cast(Any, self.around), builder=cast(Any, None))
        for app, detached in self.detached.items():
            self.apps.adopt(AppRow(AppId(app), "held", "", "main", AppState.RUNNING, 0.0, None, detached), ())
            self.apps.hold(app, 0)
            self.held[app] = {0}

    @rule(app=st.sampled_from(["ap-0", "ap-1"]), holder=st.integers(0, 1))
    def hold(self, app: str, holder: int) -> None:
        try:
            self.inside(lambda: self.apps.hold(app, holder))
        except NotFoundError:
            assert app in self.around.ended or app in self.apps._ending, "an app that lives is not found"
        else:
            assert app not in self.around.ended, "an app that has ended can be held"
            self.held[app].add(holder)
            self.left.pop(app, None)

    @rule(holder=st.integers(0, 1))
    def leave(self, holder: int) -> None:
        self.inside(lambda: self.apps.release(holder))
        for app, holders in self.held.items():
            if holder in holders:
                holders.discard(holder)
                if not holders:
                    self.left[app] = self.loop.time()

    @rule(seconds=st.sampled_from([1.0, LEASE_S / 2, LEASE_S - 0.2, LEASE_S + 1.0]))
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @invariant()
    def lives_as_long_as_it_should(self) -> None:
        if not hasattr(self, "apps"):
            return
        now = self.loop.time()
        for app in self.detached:
            alone_s = now - self.left[app] if app in self.left else 0.0
            if self.detached[app] or alone_s < LEASE_S:
                assert app not in self.around.ended, f"{app} ended after {alone_s:g} s alone"
            elif alone_s > LEASE_S + 0.5:
                assert app in self.around.ended, f"{app} lives on, {alone_s:g} s alone"

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()


QUICK = settings(max_examples=80, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
#: The same examples each time, so that what is found once is found always.
FINDING = settings(QUICK, max_examples=1000, database=None, phases=[Phase.generate], report_multiple_bugs=False, derandomize=True)


def test_an_app_lives_as_long_as_it_is_held() -> None:
    run_state_machine_as_test(Machine, settings=QUICK)


async def _any_absence(self: Apps, app: str, released_at: float) -> None:
    """As it was once: the lease of one absence ran out in another."""
    await asyncio.sleep(LEASE_S)
    if app in self.live and not self._holders.get(app):
        await self.stop(app, "its client left")


async def _held_or_not(self: Apps, app: str, released_at: float) -> None:
    await asyncio.sleep(LEASE_S)
    if app in self.live:
        await self.stop(app, "its client left")


async def _never(self: Apps, app: str, released_at: float) -> None:
    await asyncio.sleep(LEASE_S)


@pytest.mark.parametrize("defect", [_any_absence, _held_or_not, _never])
def test_the_machine_finds(defect: Callable[[Apps, str, float], Coroutine[Any, Any, None]]) -> None:
    class Wrong(Apps):
        _lapse = defect

    class Planted(Machine):
        apps_type = Wrong

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Planted, settings=FINDING)
