"""`scripts/gpu-check`: whether functions on this machine get exactly the GPUs that they ask for, by what torch in a container sees."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

from benchmarks.contestants.gpus import app, look
from squall.runtime import cdi
from squall.worker.gpu_inventory import gpus

#: The driver gives memory back some moments after a process has ended.
_FREE_S_MAX = 30.0
_SLACK_MIB = 64


def main() -> int:
    here = [device for devices in gpus().values() for device in devices]
    if not here:
        print("no GPU here")
        return 0
    if missing := [device for device in here if not cdi.has(device, cdi.folders_of(os.environ))]:
        print(f"✗ no CDI file says how a container gets {missing[0]}; write one with: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml", file=sys.stderr)
        return 1
    before = _used_mib()
    with app.run():
        found = [look.remote(), *_results([look.spawn() for _ in here])]
        wide = look.with_options(gpu=f"any:{len(here)}").remote() if len(here) <= 8 else None
    problems = [f"asked for {one['asked']}, saw {one['seen']}" for one in found if one["seen"] != one["asked"] or len(one["seen"]) != 1]
    problems += [f"{one['seen']} is no GPU of this machine" for one in found if not set(one["seen"]) <= set(here)]
    if {device for one in found[1:] for device in one["seen"]} != set(here):
        problems.append(f"{len(here)} at a time did not get {len(here)} different GPUs")
    if wide is not None and set(wide["seen"]) != set(here):
        problems.append(f"asked for all {len(here)}, saw {wide['seen']}")
    if held := _still_held(before):
        problems.append(f"memory is not free again: {held}")
    for problem in problems:
        print(f"✗ {problem}", file=sys.stderr)
    print(f"{'✗' if problems else '✓'} {len(here)} GPUs, {len(found) + (wide is not None)} containers")
    return 1 if problems else 0


def _results(calls: Iterable[Any]) -> list[dict[str, Any]]:
    return [call.get(timeout=900) for call in calls]


def _used_mib() -> dict[str, int]:
    """MiB in use, by UUID."""
    tool = shutil.which("nvidia-smi")
    assert tool is not None, "there are GPUs"
    asked = subprocess.run([tool, "--query-gpu=uuid,memory.used", "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True)
    return {uuid: int(used) for uuid, used in (line.split(", ") for line in asked.stdout.splitlines())}


def _still_held(before: dict[str, int]) -> dict[str, int]:
    """What is used beyond what was used before, once it had time to become free."""
    deadline = time.monotonic() + _FREE_S_MAX
    while True:
        held = {uuid: used - before.get(uuid, 0) for uuid, used in _used_mib().items() if used > before.get(uuid, 0) + _SLACK_MIB}
        if not held or time.monotonic() > deadline:
            return held
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())
