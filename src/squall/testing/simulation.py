"""A simulated world: the production router, pools, apps, sessions and SQL against simulated machines, networks, disks and programs."""

import asyncio
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from squall.core.calls.validation import validate
from squall.model.ids import CallId
from squall.model.states import ContainerState
from squall.runtime.contract import Exit
from squall.testing.clients import Plan, SimulatedClient
from squall.testing.containers import Machines
from squall.testing.disk import Disk
from squall.testing.ledger import Ledger, Violation
from squall.testing.links import End, Link, Weather
from squall.testing.scenario import Scenario, make_scenario
from squall.testing.server import SimulatedServer, SimulatedSession
from squall.testing.virtual import Clock, Process, VirtualLoop, virtual_time

#: After the faults end, everything must be done within this (virtual) time: several timeouts and back-offs in a row.
HEAL_S = 4 * 3600.0
#: Period of the look at the router's own books.
CHECK_S = 0.25


class Report(msgspec.Struct):
    """What a run came to. `trace` is a hash of every event in its order: the same seed gives the same."""

    seed: int
    trace: str
    virtual_s: float
    steps: int
    counts: dict[str, int]


class World:
    """One simulation. `run` returns its report or raises `Violation`."""

    def __init__(self, scenario: Scenario, folder: Path, *, keep_trace: bool = False) -> None:
        self.scenario, self.folder = scenario, folder
        self.rng = Random(scenario.seed * 7919 + 1)
        self.loop = VirtualLoop()
        self.clock = Clock(self.loop)
        self.weather = Weather(self.rng)
        self.ledger = Ledger(self.loop.time, keep_trace=keep_trace)
        self.disk = Disk(self.rng)
        self.machines = Machines(self.loop, self.rng, self.weather, self.ledger)
        self.god = Process(self.loop, "world")
        self.links: list[Link] = []
        self.clients: list[SimulatedClient] = []
        self.server: SimulatedServer | None = None
        self._broken: BaseException | None = None
        self._done = False

    def run(self) -> Report:
        self.loop.set_exception_handler(self._exception)
        try:
            with virtual_time(self.clock, self.loop, self.rng):
                self.loop.run_until_complete(self._watched())
        finally:
            self.loop.close()
            self.disk.close()
        return Report(self.scenario.seed, self.ledger.digest(), self.loop.time(), self.loop.steps, dict(self.ledger.counts))

    async def _watched(self) -> None:
        self.god.start(self._story())
        while not self._done and self._broken is None and self.ledger.broken is None:
            await asyncio.sleep(CHECK_S)
            if self.loop.time() > self.scenario.hours * 3600.0 + HEAL_S:
                self.ledger.fail("after everything was healed, it did not finish:\n" + self._unfinished())
        if self.ledger.broken is not None:
            raise self.ledger.broken
        if self._broken is not None:
            raise self._broken

    def _exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self._broken is None:
            self._broken = error if isinstance(error, Violation) else Violation(f"an exception in the product: {context.get('message')}: {error!r}")
            if not isinstance(error, Violation):
                self._broken.__cause__ = error

    async def _guard(self, work: Any) -> None:
        try:
            await work
        except BaseException as error:
            if self._broken is None:
                self._broken = error

    # the server

    async def _start_server(self) -> None:
        self.machines.life += 1
        process = Process(self.loop, f"server {self.machines.life}")
        self.ledger.note("server-start", self.machines.life)
        up: asyncio.Future[SimulatedServer] = self.loop.create_future()
        process.start(self._guard(self._serve(process, up)))
        self.server = await up

    async def _serve(self, process: Process, up: "asyncio.Future[SimulatedServer]") -> None:
        server = SimulatedServer(process, self.machines, self.disk, self.scenario.nodes, self.folder, remote=self.scenario.lossy_nodes)
        await server.open()
        self._look(server)
        up.set_result(server)

    def _kill_server(self) -> None:
        """kill -9."""
        assert self.server is not None
        self.ledger.note("server-kill", self.machines.life)
        for client in self.clients:
            if not client.process.alive:  # A run without its program ends with its server.
                client.unwant()
        self.server.process.kill()
        self.server.store.crash()
        self._server_gone()

    async def _stop_server(self) -> None:
        """As `squall server stop` does it."""
        assert self.server is not None
        self.ledger.note("server-stop", self.machines.life)
        server, self.server = self.server, None
        stopped = self.loop.create_future()

        async def stop() -> None:
            await server.close()
            stopped.set_result(None)

        for client in self.clients:
            client.unwant()
            client.ending = client.process.alive
        server.process.start(self._guard(stop()))
        await stopped
        if self.machines.containers:
            self.ledger.fail(f"a stopped server left containers: {list(self.machines.containers)}")
        server.process.kill()
        self._server_gone()
        # Runs end with a server that is stopped. Their users begin them anew.
        for client in [client for client in self.clients if client.process.alive and not client.finished]:
            client.vanish()
            self._begin(client.plan)

    def _begin(self, plan: Plan) -> SimulatedClient:
        client = SimulatedClient(self.loop, self.rng, self.ledger, plan, f"client{len(self.clients)}", self.dial)
        self.clients.append(client)
        client.begin()
        return client

    def _server_gone(self) -> None:
        self.server = None
        for link in self.links:
            link.hang_up(link.far)
        self.links.clear()
        self.machines.server_died()

    def dial(self, near: Process) -> End | None:
        """A client connects."""
        if self.server is None:
            return None
        link = Link(self.loop, self.weather, near, self.server.process)
        SimulatedSession(self.server, link.far)
        self.links = [each for each in self.links if not each.torn and each.near.process.alive]
        self.links.append(link)
        return link.near

    # invariants of the router's own books

    def _look(self, server: SimulatedServer) -> None:
        """Runs in the server's process; the rules that can be checked at any moment between two callbacks."""
        for pool in server.router.pools.values():
            live = sum(member.live for member in pool.members.values())
            most = pool.spec.scaling.max_containers
            if most is not None and live > most:
                self.ledger.fail(f"{pool.spec.tag} has {live} containers and may have {most}")
            try:
                validate(pool.calls)
            except AssertionError as error:
                self.ledger.fail(f"{pool.spec.tag}: {error}")
            for member in pool.members.values():
                if len(member.running) > pool.limit and not pool.calls.may_run_ahead:
                    self.ledger.fail(f"{member.id} was given {len(member.running)} inputs and takes {pool.limit}")
        server.process.later(CHECK_S, self._look, server)

    # the story

    async def _story(self) -> None:
        await self._guard(self._tell())
        self._done = True

    async def _tell(self) -> None:
        await self._start_server()
        scenario, loop = self.scenario, self.loop
        for plan in scenario.clients:
            client = self._begin(plan)
            if plan.vanish_at is not None:
                self.god.later(plan.vanish_at, client.vanish)
        until = scenario.hours * 3600.0
        self._set_faults(True)
        self.ledger.freezes = scenario.freezes or scenario.lossy_nodes
        while loop.time() < until:
            await asyncio.sleep(self.rng.expovariate(1.0))
            await self._mischief()
        self._set_faults(False)
        self.ledger.note("healed")
        while any(client.process.alive and not client.finished for client in self.clients):  # noqa: ASYNC110  # virtual time costs nothing
            await asyncio.sleep(0.5)
        await self._wait_idle()
        await self._stop_apps()
        await self._account()

    def _set_faults(self, on: bool) -> None:
        scenario, luck = self.scenario, self.machines.luck
        self.weather.late_chance = 0.02 if on and scenario.late else 0.0
        self.weather.loss_chance, self.weather.repeat_chance = (0.005, 0.02) if on and scenario.lossy_nodes else (0.0, 0.0)
        self.disk.slow_chance = 0.03 if on and scenario.slow_disk else 0.0
        self.disk.full = False
        luck.launch_fails = 0.05 if on and scenario.launch_fails else 0.0
        luck.start_sticks = 0.05 if on and scenario.start_sticks else 0.0
        luck.slow_start = 0.1 if on and scenario.late else 0.0

    async def _mischief(self) -> None:
        scenario, rng = self.scenario, self.rng
        containers = sorted(self.machines.containers)
        dice = rng.random()
        if scenario.container_kills and dice < 0.3 and containers:
            self.machines.containers[rng.choice(containers)].die(Exit(None, 9), "killed")
        elif scenario.freezes and dice < 0.4 and containers:
            self.machines.containers[rng.choice(containers)].freeze(rng.random() * 10.0)
        elif scenario.tears and dice < 0.6 and (links := self._breakable()):
            rng.choice(links).tear(rng)
        elif scenario.full_disk and dice < 0.65:
            self.disk.full = True
            self.god.later(rng.random() * 3.0, lambda: setattr(self.disk, "full", False))
        elif scenario.clock_steps and dice < 0.7:
            self.clock.offset_s += rng.choice((-3600.0, -1.0, 0.5, 7200.0))
        elif scenario.server_kills and dice < 0.8:
            self._kill_server()
            await asyncio.sleep(rng.random() * 3.0)
            await self._start_server()
        elif scenario.server_stops and dice < 0.85:
            await self._stop_server()
            await asyncio.sleep(rng.random() * 2.0)
            await self._start_server()

    def _breakable(self) -> list[Link]:
        nodes = self.server.connections.values() if self.server is not None else ()
        return [*self.links, *(each.link for each in nodes if each.link is not None)]

    async def _wait_idle(self) -> None:
        """Without load, every pool shrinks to its minimum."""
        assert self.server is not None
        while True:
            pools = list(self.server.router.pools.values())
            busy = any(pool.queue or any(member.running for member in pool.members.values()) for pool in pools)
            if not busy and all(
                len(pool.members) == pool.spec.scaling.min_containers for pool in pools if not pool.calls.closed and pool.spec.qualname != "broken"
            ):
                break
            await asyncio.sleep(1.0)

    async def _stop_apps(self) -> None:
        assert self.server is not None
        for client in self.clients:
            if client.process.alive:
                stopped = self.loop.create_future()

                async def stop(client: SimulatedClient = client, stopped: "asyncio.Future[None]" = stopped) -> None:
                    await client.stop_app()
                    stopped.set_result(None)

                client.process.start(stop())
                await stopped
        for app in list(self.server.apps.live):
            await self.server.apps.stop(app)
        while self.machines.containers:  # noqa: ASYNC110
            await asyncio.sleep(1.0)

    async def _account(self) -> None:
        """The last look at the books."""
        assert self.server is not None
        await asyncio.sleep(30.0)
        router, ledger = self.server.router, self.ledger
        await router.settle()
        for what, count in (
            ("inputs", len(router.inputs)),
            ("pools", len(router.pools)),
            ("functions", len(router.functions)),
            ("hosted", len(self.machines.hosted)),
        ):
            if count:
                ledger.fail(f"the router still has {count} {what}")
        for node in self.server.nodes:
            if abs(node.used_cores) > 1e-6 or abs(node.used_memory_mib) > 1e-6:
                ledger.fail(f"{node} still has reservations")
        if rows := await self.server.store.pending(1_000_000):
            ledger.fail(f"{len(rows)} inputs have no end in the store, for example {rows[0]}", (rows[0].call, rows[0].index))
        for key, record in ledger.records.items():
            row = await self.server.store.input(CallId(key[0]), key[1])
            if record.accepted and row is None:
                ledger.fail("an accepted input is not in the store", key)
            if not record.unwanted and not record.outputs and not record.abandoned:
                ledger.fail("it was lost: its client never got an outcome", key)
            if record.accepted and row is not None and record.outputs and row.output != record.outputs[-1].data:
                ledger.fail(f"the store has another outcome than its client got: {row.status} {row.output!r}", key)
        for container in await self.server.store.containers(live_only=True):
            if container.state is not ContainerState.STOPPED:
                ledger.fail(f"the store takes {container.id} to be {container.state}")

    def _unfinished(self) -> str:
        lines = [f"{client.name}: {client.where()}" for client in self.clients if client.process.alive and not client.finished]
        if self.server is not None:
            for pool in self.server.router.pools.values():
                members = [(member.id[-6:], str(member.state), len(member.running)) for member in pool.members.values()]
                lines.append(f"pool {pool.spec.tag}: {len(pool.queue)} queued, members {members}, short of {pool.short}")
            lines.append(f"the router has {len(self.server.router.inputs)} inputs")
        open_keys = [client._keys[number] for client in self.clients if client.process.alive for number in client._answers]
        lines += [self.ledger.story(key) for key in open_keys[:3] if key in self.ledger.records]
        return "\n".join(lines)


def simulate(seed: int, *, nodes: int | None = None, hours: float | None = None, keep_trace: bool = False) -> Report:
    """Run the world of a seed.

    Raises:
        Violation: a rule was broken; its notes hold the seed and the end of the trace.
    """
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        world = World(make_scenario(seed, nodes=nodes, hours=hours), Path(folder), keep_trace=keep_trace)
        try:
            return world.run()
        except Exception as error:
            error.add_note(f"seed {seed}; the trace ends with\n  " + "\n  ".join(world.ledger.trace_tail[-40:]))
            raise


@contextmanager
def _quiet() -> Iterator[None]:
    """The product's log speaks of every fault that is put in here."""
    logger = logging.getLogger("squall")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
