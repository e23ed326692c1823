"""The path of a call: one after another, many at a time, the first of all; beside the floor and the peers, in turns."""

import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import cpu_percent, rss_mib
from benchmarks.process import PEERS, Contestant, ensure_peer
from benchmarks.report import Invalid, Metric, Report
from benchmarks.server import environment, first_call_s, forget_calls, server_pid, stop_server

METRICS = {
    "warm_call_p50_ms": Metric("ms"),
    "warm_call_p99_ms": Metric("ms"),
    "warm_call_p99_ratio_to_p50": Metric("×", 4.0),
    "floor_call_p50_ms": Metric("ms"),
    "warm_call_ratio_to_floor": Metric("×", 2.0),
    "warm_call_ratio_to_ray_actor": Metric("×", 0.4),
    "map_calls_per_s": Metric("1/s", lower=False),
    "floor_map_calls_per_s": Metric("1/s", lower=False),
    "map_ratio_to_floor": Metric("×", 0.3, lower=False),
    "map_ratio_to_ray_actor": Metric("×", 8.0, lower=False),
    "spawn_calls_per_s": Metric("1/s", 5_000.0, lower=False),
    "large_args_mb_per_s": Metric("MB/s", 1_000.0, lower=False),
    "queued_dispatch_ratio": Metric("×", 1.3),
    "queued_server_rss_mib": Metric("MiB", 1_024.0),
    "thousand_functions_call_ratio": Metric("×", 1.1),
    "first_call_server_up_s": Metric("s", 0.35),
    "first_call_no_server_s": Metric("s", 0.6),
    "idle_server_rss_mib": Metric("MiB", 120.0),
    "idle_server_cpu_percent": Metric("%", 1.0),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each. A round has some of everything, of everybody; `slow_map` is for peers below 5,000 calls/s."""

    rounds: int
    warm_up: int
    calls: int
    map: int
    slow_map: int
    spawns: int
    large: int
    queued: int
    first_calls: int
    idle_s: float


FULL = Size(rounds=7, warm_up=500, calls=1_500, map=30_000, slow_map=3_000, spawns=2_000, large=100, queued=1_000_000, first_calls=5, idle_s=5.0)
QUICK = Size(rounds=2, warm_up=100, calls=300, map=5_000, slow_map=500, spawns=300, large=20, queued=20_000, first_calls=1, idle_s=1.0)
SLOW_PEERS = {"ray", "celery"}


def run(peers: Sequence[str], quick: bool) -> Report:
    """Measure. Raises Invalid when a figure would not be about what its name says."""
    size, report, env = QUICK if quick else FULL, Report(METRICS), environment()
    interpreters = {name: ensure_peer(name) for name in peers}
    try:
        forget_calls()
        say("first calls")
        first_call_s(env)  # Not counted: the base image may have to be made, and files are read for the first time.
        for _ in range(size.first_calls):
            report.add("first_call_server_up_s", first_call_s(env))
        for _ in range(size.first_calls):
            stop_server()
            report.add("first_call_no_server_s", first_call_s(env))
        pid = server_pid()
        if pid is None:
            raise Invalid("the first call left no server behind")
        report.add("idle_server_cpu_percent", cpu_percent(pid, size.idle_s))
        report.add("idle_server_rss_mib", rss_mib(pid))
        with ExitStack() as stack:
            floor = stack.enter_context(Contestant("floor", "floor"))
            squall = stack.enter_context(Contestant("squall", "squall_function", env=env))
            others = [stack.enter_context(Contestant(name, PEERS[name].module, python=interpreters[name])) for name in peers]
            for contestant in (floor, squall, *others):
                validate(contestant)
                contestant.ask("calls", size.warm_up)
                contestant.ask("map", size.warm_up)
            for number in range(size.rounds):
                say(f"round {number + 1} of {size.rounds}")
                one_round(report, size, floor, squall, others)
            validate(squall)
            say("a thousand deployed functions")
            crowd(report, size, squall)
            say(f"{size.queued:,} inputs that wait")
            deep_queue(report, size, squall, server_pid() or pid)
    finally:
        stop_server()
    return report


def one_round(report: Report, size: Size, floor: Contestant, squall: Contestant, others: Sequence[Contestant]) -> None:
    """Everybody in turn, so that what else the machine does falls on all; ratios are of figures of the same round."""
    call_ms: dict[str, float] = {}
    map_per_s: dict[str, float] = {}
    for contestant in (floor, squall, *others):
        times = contestant.ask("calls", size.calls)["times"]
        call_ms[contestant.name] = statistics.median(times) * 1e3
        if contestant is squall:
            p99_ms = statistics.quantiles(times, n=100)[98] * 1e3
            report.add("warm_call_p99_ms", p99_ms)
            report.add("warm_call_p99_ratio_to_p50", p99_ms / call_ms["squall"])
    for contestant in (floor, squall, *others):
        n = size.slow_map if contestant.name in SLOW_PEERS else size.map
        map_per_s[contestant.name] = n / contestant.ask("map", n)["seconds"]
    report.add("warm_call_p50_ms", call_ms["squall"])
    report.add("floor_call_p50_ms", call_ms["floor"])
    report.add("warm_call_ratio_to_floor", call_ms["squall"] / call_ms["floor"])
    report.add("map_calls_per_s", map_per_s["squall"])
    report.add("floor_map_calls_per_s", map_per_s["floor"])
    report.add("map_ratio_to_floor", map_per_s["squall"] / map_per_s["floor"])
    for peer in others:
        report.add("warm_call_p50_ms", call_ms[peer.name], peer.name)
        report.add("map_calls_per_s", map_per_s[peer.name], peer.name)
    if "ray" in call_ms:
        report.add("warm_call_ratio_to_ray_actor", call_ms["squall"] / call_ms["ray"])
        report.add("map_ratio_to_ray_actor", map_per_s["squall"] / map_per_s["ray"])
    report.add("spawn_calls_per_s", size.spawns / squall.ask("spawn", size.spawns)["seconds"])
    report.add("large_args_mb_per_s", size.large * (1 << 20) / 1e6 / squall.ask("large", size.large)["seconds"])


def deep_queue(report: Report, size: Size, squall: Contestant, server: int) -> None:
    """What it costs to hand out a thousand inputs while a million wait behind them, beside a thousand."""
    shallow = []
    for _ in range(5):
        squall.ask("fill", 3_000)
        shallow += squall.ask("drain", 1)["times"]
    squall.ask("fill", size.queued)
    report.add("queued_server_rss_mib", rss_mib(server))
    deep = squall.ask("drain", 5)["times"]
    report.add("queued_dispatch_ratio", statistics.median(deep) / statistics.median(shallow))


def crowd(report: Report, size: Size, squall: Contestant) -> None:
    """What deployed functions that nobody calls add to a call."""
    alone = statistics.median(squall.ask("calls", size.calls)["times"])
    squall.ask("deploy")
    squall.ask("calls", size.warm_up)
    report.add("thousand_functions_call_ratio", statistics.median(squall.ask("calls", size.calls)["times"]) / alone)


def validate(contestant: Contestant) -> None:
    """The work is done in another process than the caller's; Squall's in a container, with a process namespace of its own."""
    place: dict[str, Any] = contestant.ask("where")
    if contestant.name != "squall":
        if place["pid"] == place["client"]:
            raise Invalid(f"{contestant.name} works in the caller's own process")
        return
    if not str(place["container"] or "").startswith("ct-"):
        raise Invalid(f"Squall's function ran outside a container: {place}")
    if place["pid_namespace"] == place["client_pid_namespace"]:
        raise Invalid(f"Squall's function ran in the caller's process namespace: {place}")


def say(text: str) -> None:
    print(f"• {text}", file=sys.stderr, flush=True)
