"""Simulated worlds: two hundred seeds break no rule, a seed gives one trace, and the rules bite."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from squall.control.apps.apps import LEASE_S, Apps
from squall.control.calls.durable_inputs import Spawned
from squall.control.calls.pool import Pool
from squall.control.calls.readoption import Returns
from squall.control.nodes.reconcile import Repair
from squall.core import autoscaler, retry
from squall.testing.simulation import Violation, simulate
from squall.testing.virtual import Deadlock, Process, VirtualLoop
from squall.wire.agent import Envelope
from squall.wire.messages import Rejoin
from squall.worker.node_end import NodeEnd


@pytest.mark.slow
def test_two_hundred_worlds_break_no_rule() -> None:
    done = subprocess.run([sys.executable, "-m", "squall.testing.simulate", "--seeds", "1-200"], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200 worlds, ")


def test_a_seed_gives_one_trace() -> None:
    first, again = simulate(20), simulate(20)
    assert first == again
    assert first.trace != simulate(21).trace
    assert first.counts["run"] > 50


# --- defects that are put in and have to be found ------------------------------------------------------------------------------
#
# Each search begins at a seed that finds it at once. When worlds have changed, it goes on to others, and takes longer: then choose another first one.


def _found(first: int) -> str:
    """What the first of these worlds that breaks a rule complains of."""
    for seed in range(first, first + 100):
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("squall.testing.simulation.HEAL_S", 600.0)  # what is lost does not come, however long anybody waits
                simulate(seed)
        except Violation as violation:
            return str(violation)
    return ""


def test_it_finds_a_result_that_is_delivered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Pool.result

    def twice(self: Pool, member: Any, message: Any) -> None:
        item = member.running.get(message.token)
        result(self, member, message)
        if item is not None and not item.durable and item.caller is not None and message.status == 0 and message.token % 7 == 0:
            self.router.deliver(item, message.status, message.data)

    monkeypatch.setattr(Pool, "result", twice)
    assert "second result" in _found(3)


def test_it_finds_a_pool_that_grows_beyond_its_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = autoscaler.plan_containers
    monkeypatch.setattr(
        "squall.control.calls.pool_scaler.plan_containers", lambda demand, scaling, concurrency: plan(demand, scaling, concurrency) + (demand.queued > 3)
    )
    assert "may have" in _found(2)


def test_it_finds_capacity_that_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squall.core.placement.Placement.take", lambda self: None)
    monkeypatch.setattr("squall.core.placement.Placement.give_back", lambda self: None)
    found = _found(3)
    assert "are taken" in found or "are asked for" in found


def test_it_finds_a_spawn_that_is_lost_in_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forget(self: Apps, functions: set[str]) -> None:
        for function in sorted(functions):
            self.router.waits.recovered(function)

    monkeypatch.setattr(Apps, "recover_inputs", forget)
    found = _found(2)
    assert "did not finish" in found or "no end in the store" in found


def test_it_finds_a_retry_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    after = retry.after_user_failure
    monkeypatch.setattr("squall.core.calls.outcomes.after_user_failure", lambda attempts, policy: after(attempts - 1 if attempts > 1 else attempts, policy))
    assert "retried beyond" in _found(3)


def test_it_finds_a_lease_that_runs_out_while_its_client_is_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was once: only the end of the lease was looked at, not whether it is the same absence."""

    async def lapse(self: Apps, app: str, released_at: float) -> None:
        await asyncio.sleep(LEASE_S)
        if app in self.live and not self._holders.get(app):
            await self.stop(app, "its client left")

    monkeypatch.setattr(Apps, "_lapse", lapse)
    assert _found(171) != ""


def test_it_finds_an_outcome_that_is_told_before_it_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was once: with a full disk, callers got outcomes that no restart knew of."""

    def deliver(self: Spawned, claims: Any, ended: Any, error: Any) -> None:
        for item, status, data in ended:
            self._router.inputs.pop(item.key)
            self._router.deliver(item, status, data)

    monkeypatch.setattr(Spawned, "_again", deliver)
    assert _found(6) != ""


def test_it_finds_an_input_that_runs_again_while_its_container_outlived_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    readmit = Returns._readmit

    def forget(self: Returns, back: Any, rejoin: Rejoin, pool: Any, newest: Any) -> None:
        readmit(self, back, Rejoin((), rejoin.ended), pool, newest)

    monkeypatch.setattr(Returns, "_readmit", forget)
    assert "it runs again while" in _found(3)


def test_it_finds_a_generator_that_gives_items_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was once: after the loss of its container it began again, with its first item."""
    result = Pool.result

    def forget(self: Pool, member: Any, message: Any) -> None:
        item = member.running.get(message.token)
        result(self, member, message)
        if item is not None:
            item.delivered = 0

    monkeypatch.setattr(Pool, "result", forget)
    assert "item b'0' came after" in _found(33)


def test_it_finds_an_order_that_a_node_carries_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    received = NodeEnd.received

    def forget(self: NodeEnd, envelope: Envelope) -> None:
        self._got = min(self._got, envelope.number - 1)
        received(self, envelope)

    monkeypatch.setattr(NodeEnd, "received", forget)
    assert "began twice" in _found(14)


def test_it_finds_a_hello_that_repairs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squall.control.nodes.remote_agent.reconcile", lambda wanted, hello, first: Repair())
    assert _found(33) != ""


# --- the virtual loop ----------------------------------------------------------------------------------------------------------


def test_virtual_time_jumps_to_the_next_timer() -> None:
    loop = VirtualLoop()

    async def sleep_long() -> float:
        await asyncio.sleep(3600.0)
        return loop.time()

    try:
        assert loop.run_until_complete(sleep_long()) == 3600.0
    finally:
        loop.close()


def test_a_killed_process_runs_nothing_more_not_even_finally() -> None:
    loop = VirtualLoop()
    seen: list[str] = []
    process = Process(loop, "victim")

    async def victim() -> None:
        try:
            seen.append("begins")
            await asyncio.sleep(2.0)
            seen.append("goes on")
        finally:
            seen.append("finally")

    async def story() -> list[str]:
        process.start(victim())
        await asyncio.sleep(1.0)
        process.kill()
        process.later(0.1, seen.append, "a timer")
        await asyncio.sleep(5.0)
        return list(seen)

    try:
        assert loop.run_until_complete(story()) == ["begins"]
    finally:
        loop.close()


def test_waiting_for_nothing_is_an_error_and_not_a_hang() -> None:
    loop = VirtualLoop()
    try:
        with pytest.raises(Deadlock):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()


async def test_the_simulated_store_keeps_the_contract_that_it_shares_with_the_real_one(tmp_path: Path) -> None:
    """Its SQL is the real one's; what is its own is when a write is on disk."""
    from random import Random

    from squall.model.errors import ClientClosed, ResourceExhaustedError
    from squall.model.ids import CallId, FunctionId
    from squall.store.rows import InputRow
    from squall.testing.disk import Disk, SimulatedStore

    disk = Disk(Random(1))
    row = InputRow(CallId("fc-1"), 0, FunctionId("fu-1"), b"data", 1.0)
    store = SimulatedStore(disk)
    await store.open()
    assert await store.accept([row, row]) == 1
    disk.full = True
    with pytest.raises(ResourceExhaustedError):
        await store.claim(row.call, 0, 7, 1.0)
    disk.full = False
    assert await store.claim(row.call, 0, 7, 1.0)
    under_way = asyncio.ensure_future(store.finish(row.call, 0, 7, 0, b"out", 2.0, None))
    await asyncio.sleep(0)
    store.crash()
    under_way.cancel()
    again = SimulatedStore(disk)
    await again.open()
    found = await again.input(row.call, 0)
    assert found is not None
    assert (found.token, found.output in (None, b"out")) == (7, True)
    await again.close()
    with pytest.raises(ClientClosed):
        await again.accept([row])
    disk.close()
