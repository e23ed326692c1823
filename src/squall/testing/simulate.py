"""`scripts/simulate`: runs simulated worlds by their seeds, and tells of the first that breaks a rule."""

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from squall.testing.simulation import Report, simulate

#: Events whose counts are printed.
_TOLD = ("call", "run", "output", "container", "server-kill", "server-stop", "rejoin", "connection-lost", "vanish", "cancel")


def one(seed: int, nodes: int | None = None, hours: float | None = None) -> Report | str:
    """The report, or the story of what went wrong: both can cross to another process."""
    try:
        return simulate(seed, nodes=nodes, hours=hours)
    except Exception:
        return traceback.format_exc()


def many(seeds: range, nodes: int | None = None, hours: float | None = None) -> Iterator[tuple[int, Report | str]]:
    """Every seed's report, in their order, from as many processes as there are processors. Children are started afresh: a fork would share threads."""
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn")) as pool:
        yield from zip(seeds, pool.map(one, seeds, [nodes] * len(seeds), [hours] * len(seeds), chunksize=4), strict=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one twice, and compare the traces")
    parser.add_argument("--seeds", default="1-200", metavar="A-B", help="run these, on all processors (default: %(default)s)")
    parser.add_argument("--nodes", type=int, help="so many machines, instead of the seed's choice")
    parser.add_argument("--hours", type=float, help="so many hours with faults and load, instead of the seed's choice")
    given = parser.parse_args()
    began = time.perf_counter()
    if given.seed is not None:
        first, again = (one(given.seed, given.nodes, given.hours) for _ in range(2))
        if isinstance(first, str):
            sys.stderr.write(first)
            return 1
        if first != again:
            sys.stderr.write(f"seed {given.seed} gave two traces: {first} and {again}\n")
            return 1
        sys.stdout.write(f"{first}\ntrace {first.trace}, twice the same; {time.perf_counter() - began:.1f} s\n")
        return 0
    low, _, high = given.seeds.partition("-")
    counts: Counter[str] = Counter()
    worlds, virtual_s = 0, 0.0
    for seed, report in many(range(int(low), int(high or low) + 1), given.nodes, given.hours):
        if isinstance(report, str):
            sys.stderr.write(f"{report}\nseed {seed} broke a rule; scripts/simulate --seed {seed} shows it again\n")
            return 1
        counts.update(report.counts)
        worlds, virtual_s = worlds + 1, virtual_s + report.virtual_s
    took = time.perf_counter() - began
    facts = ", ".join(f"{counts[name]} {name}" for name in _TOLD)
    sys.stdout.write(f"{worlds} worlds, {virtual_s / 3600:.1f} virtual hours in {took:.1f} s, no rule broken\n{facts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
