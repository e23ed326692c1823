"""From one seed: how large the world is, what its programs do, and what goes wrong in it."""

from random import Random

import msgspec

from squall.model.resources import Resources
from squall.model.specs import AppSpec, Concurrency, FunctionSpec, ImageSpec, MethodSpec, RetryPolicy, Scaling, Step
from squall.testing.clients import Plan
from squall.testing.containers import Task


class Scenario(msgspec.Struct):
    """A world before it begins. `hours` bounds the time with faults and new load; then everything is healed and must finish.

    Swarm testing (Groce et al., 2012): each kind of fault is left out of half of the worlds, so that none hides what another would show.
    """

    seed: int
    nodes: int
    hours: float
    clients: list[Plan]
    server_kills: bool
    server_stops: bool
    container_kills: bool
    freezes: bool
    tears: bool
    late: bool
    slow_disk: bool
    full_disk: bool
    launch_fails: bool
    start_sticks: bool
    clock_steps: bool
    lossy_nodes: bool


_FAULTS = tuple(name for name in Scenario.__struct_fields__ if name not in ("seed", "nodes", "hours", "clients"))


def make_scenario(seed: int, *, nodes: int | None = None, hours: float | None = None) -> Scenario:
    rng = Random(seed)
    hours = rng.choice((0.005, 0.01, 0.02)) if hours is None else hours
    count = rng.choice((1, 1, 2, 3, 8)) if nodes is None else nodes
    clients = [_plan(rng, name, hours * 3600.0, generators=seed % 4 == 1) for name in range(rng.choice((1, 2, 3)))]
    return Scenario(seed, count, hours, clients, **{fault: rng.random() < 0.5 for fault in _FAULTS})


def _plan(rng: Random, name: int, seconds: float, *, generators: bool) -> Plan:
    functions = tuple(_function(rng, f"f{name}_{place}", generator=generators and place == 1) for place in range(rng.choice((1, 1, 2, 4))))
    spec = AppSpec(f"app{name}", "simulated", (ImageSpec((Step("debian_slim"),)),), functions)
    tasks = []
    for _ in range(max(3, int(rng.choice((3, 6, 12)) * max(1.0, seconds / 60.0)))):
        how = rng.choice(("remote", "map", "map", "spawn", "spawn"))
        count = 1 if how == "remote" else rng.choice((1, 3, 10, 40))
        kind = _kind(rng)
        when, function = rng.random() * seconds, rng.randrange(len(functions))
        generates = how != "spawn" and len(functions[function].methods) > 1
        tasks.append((when, function, how, [_task(rng, kind, generates=generates) for _ in range(count)]))
    return Plan(
        spec=spec,
        tasks=tasks,
        detach=rng.random() < 0.3,
        cancel_chance=rng.choice((0.0, 0.0, 0.1, 0.5)),
        vanish_at=rng.random() * seconds if rng.random() < 0.25 else None,
    )


def _function(rng: Random, tag: str, *, generator: bool) -> FunctionSpec:
    # Warm containers are small: those that fill the machines would keep others from ever starting, as is right.
    least = rng.choice((0, 0, 0, 1, 2))
    most = rng.choice((None, None, 1, 2, 5))
    cores, memory = rng.choice((0.125, 1.0, 2.0)), rng.choice((128, 1024, 4096))
    need = Resources(cpu_request=cores, memory_request_mib=memory) if least == 0 else Resources()
    return FunctionSpec(
        tag=tag,
        module="simulated",
        qualname="broken" if rng.random() < 0.04 else tag,
        image=0,
        # Not all have a generator: inputs are sent ahead only to functions that have none.
        methods=(MethodSpec(is_async=rng.random() < 0.3), *([MethodSpec("items", is_generator=True)] if generator else [])),
        is_class=rng.random() < 0.2,
        resources=need,
        scaling=Scaling(least if most is None else min(least, most), most, rng.choice((0, 0, 1, 2)), rng.choice((0.5, 2.0, 10.0, 60.0))),
        concurrency=rng.choice((Concurrency(), Concurrency(), Concurrency(), Concurrency(4), Concurrency(10, 4))),
        retries=rng.choice((None, None, RetryPolicy(2, 0.1, 2.0, 1.0), RetryPolicy(1, 0.0))),
        timeout_s=rng.choice((5.0, 20.0, 60.0)),
        startup_timeout_s=rng.choice((None, 10.0)),
        single_use=rng.random() < 0.1,
    )


def _kind(rng: Random) -> str:
    return rng.choice(("quick", "quick", "even", "slow", "mixed"))


def _task(rng: Random, kind: str, *, generates: bool) -> Task:
    odd = rng.random()
    if odd < 0.02:
        return Task(rng.choice(("exit", "oom", "segfault")), rng.random() * 0.1)
    if odd < 0.05:
        return Task("raise", rng.random() * 0.1)
    if odd < 0.09:
        return Task("flaky", rng.random() * 0.1, rng.choice((1, 2)))
    if odd < 0.10:
        return Task(rng.choice(("hang", "deaf")), 0.0)
    seconds = {"quick": 0.0001, "even": 0.05, "slow": rng.random() * 3.0, "mixed": rng.choice((0.0001, 0.0001, 1.0))}[kind]
    return Task("items", seconds / 4, 20) if generates and odd > 0.5 else Task("ok", seconds)
