"""A new container: with a template, without one, a hundred at once; beside the same by runc and a fresh Python, by gVisor, and new processes of peers."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.process import PEERS, Contestant, ensure_peer
from benchmarks.report import Invalid, Metric, Report
from benchmarks.server import environment, first_call_s, forget_calls, server_pid, stop_server
from squall.cli.commands.call import START_STEPS

METRICS = {
    "fork_bare_p50_ms": Metric("ms", 10.0),
    "fork_bare_p90_ms": Metric("ms"),
    "fork_pandas_p50_ms": Metric("ms", 15.0),
    "fork_torch_p50_ms": Metric("ms", 25.0),
    "first_start_ms": Metric("ms", 150.0),
    "scale_out_100_s": Metric("s", 2.0),
    "extra_container_mib": Metric("MiB", 20.0),
    "run_hello_s": Metric("s", 0.35),
    **{f"phase_{name.removesuffix('_s')}_ms": Metric("ms") for name in ("queued_s", *START_STEPS)},
    "runc_python_p50_ms": Metric("ms"),
    "gvisor_python_p50_ms": Metric("ms"),
}
_BEGAN = time.monotonic()
#: Peers that have the same work: a new process to its first result.
NEW_PROCESSES = ("processpool", "ray")
#: Starts that take a tenth of a second and more need fewer of them for a median.
SLOW_CALLS = 10


def run(peers: Sequence[str], quick: bool) -> Report:
    """Measure. Raises Invalid when a figure would not be about what its name says."""
    if unknown := set(peers) - set(NEW_PROCESSES):
        raise Invalid(f"no peer {', '.join(sorted(unknown))} in this suite; there are {', '.join(NEW_PROCESSES)}; runc and gVisor are in every run")
    rounds, calls = (1, 10) if quick else (3, 40)
    report, env = Report(METRICS), environment()
    interpreters = {name: ensure_peer(name) for name in peers}
    try:
        forget_calls()
        say("images, where they are not made yet")
        first_call_s(env)  # Not counted: images may have to be made.
        for _ in range(3 * rounds):
            report.add("run_hello_s", first_call_s(env))
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            stop_server()
            with Contestant("squall", "starts", env=env) as squall:
                one_round(report, squall, calls)
            stop_server()
            for driver in ("runc", "gvisor"):
                say(driver)
                report.add(f"{driver}_python_p50_ms", plain_python_ms(env, min(calls, SLOW_CALLS), "oci" if driver == "runc" else driver))
                stop_server()
            for name, python in interpreters.items():
                say(name)
                with Contestant(name, PEERS[name].module, python=python) as peer:
                    report.add("fork_bare_p50_ms", new_process_ms(peer, calls if name == "processpool" else min(calls, SLOW_CALLS)), name)
    finally:
        stop_server()
    return report


def one_round(report: Report, squall: Contestant, calls: int) -> None:
    here = squall.ask("where")["pid_namespace"]
    bare = squall.ask("bare", calls)
    validate(bare["places"], here, calls + 1)
    report.add("first_start_ms", bare["first_ms"])
    report.add("fork_bare_p50_ms", statistics.median(bare["times"]))
    report.add("fork_bare_p90_ms", statistics.quantiles(bare["times"], n=10)[8])
    phases = squall.ask("phases", calls)
    if phases["count"] != calls:
        raise Invalid(f"{phases['count']} of {calls} starts were copies of the function's template: {phases['others']}")
    for name, took_ms in phases["medians"].items():
        report.add(f"phase_{name.removesuffix('_s')}_ms", took_ms)
    for name in ("pandas", "torch"):
        say(name)
        found = squall.ask(name, calls)
        validate(found["places"], here, calls + 1)
        report.add(f"fork_{name}_p50_ms", statistics.median(found["times"]))
    say("a hundred at once")
    scaled = squall.ask("scale", 100)
    validate(scaled["places"], here, 100)
    report.add("scale_out_100_s", scaled["seconds"])
    say("shared memory")
    extra = squall.ask("extra", 10)
    validate(extra["places"], here, 10)
    report.add("extra_container_mib", extra["mib"])


def plain_python_ms(env: dict[str, str], calls: int, driver: str) -> float:
    """The same calls by a server whose driver starts runc or runsc, which starts Python."""
    command = [sys.executable, "-m", "squall.gateway.main", "--driver", driver, "--background"]
    subprocess.run(command, env=env, cwd=ROOT, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while server_pid() is None:
        if time.monotonic() > deadline:
            raise Invalid(f"the server with the {driver} driver did not start")
        time.sleep(0.01)
    with Contestant("squall", "starts", env=env) as squall:
        found = squall.ask("bare", calls)
        validate(found["places"], squall.ask("where")["pid_namespace"], calls + 1)
    return float(statistics.median(found["times"]))


def new_process_ms(peer: Contestant, calls: int) -> float:
    found = peer.ask("starts", calls)
    if len(set(found["places"]) - {peer.ask("where")["client"]}) != calls:
        raise Invalid(f"{peer.name}: {calls} starts were not as many processes")
    return float(statistics.median(found["times"]))


def validate(places: Iterable[Any], here: str, count: int) -> None:
    """Each answer is from a container of its own, with a process namespace of its own."""
    found = [tuple(place) for place in places]
    if len(found) != count or not all(str(container or "").startswith("ct-") and namespace != here for container, namespace in found):
        raise Invalid(f"not every call ran in a container: {found[:3]}")
    if len({container for container, _ in found}) != count:
        raise Invalid(f"{count} calls ran in {len({container for container, _ in found})} containers")


def say(text: str) -> None:
    print(f"• {time.monotonic() - _BEGAN:4.0f} s  {text}", file=sys.stderr, flush=True)
