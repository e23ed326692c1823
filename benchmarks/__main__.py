"""`python -m benchmarks SUITE`: what `scripts/bench` runs."""

import argparse
import importlib
import json
import sys
from pathlib import Path

from benchmarks.machine import commit, describe
from benchmarks.profile import profile
from benchmarks.report import Invalid, table

#: Suite -> what it measures. Each is a module of `benchmarks.suites` with `run(peers, quick)`.
SUITES = {
    "start": "new containers from a template, the first of all, a hundred at once; beside runc, gVisor and a fresh Python",
    "state": "volumes beside the bare disk, dicts, queues, many small files, opening a long history",
    "calls": "warm and first calls, maps, spawns, large arguments, the idle server",
    "images": "nothing to build, a cold build beside buildah, one file of ten thousand, starting from 2 GB in 60 layers",
    "retention": "a history of ten million ended inputs is removed while calls go on",
    "web": "requests to a web function, beside bare uvicorn",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures Squall beside its floor and its peers.")
    parser.add_argument("suite", nargs="?", choices=list(SUITES))
    parser.add_argument("--list", action="store_true", help="name the suites")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--peers", default="", metavar="A,B", help="peers that do the same work in the same run")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: to try the suite, not to quote it")
    parser.add_argument("--profile", action="store_true", help="instead of a suite: where a warm call's time goes, hop by hop")
    options = parser.parse_args()
    if options.profile:
        try:
            print(profile())
        except Invalid as error:
            print(f"✗ no profile: {error}", file=sys.stderr)
            return 1
        return 0
    if options.list or options.suite is None:
        for name, text in SUITES.items():
            print(f"{name:10} {text}")
        return 0 if options.list else 2
    peers = tuple(name for name in options.peers.split(",") if name)
    try:
        report = importlib.import_module(f"benchmarks.suites.{options.suite}").run(peers, options.quick)
    except Invalid as error:
        print(f"✗ no figures: {error}", file=sys.stderr)
        return 1
    document = {"suite": options.suite, "commit": commit(), "machine": describe(), **report.document()}
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    print(table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
