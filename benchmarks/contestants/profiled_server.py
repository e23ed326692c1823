"""Squall's server with a clock at each hop of a call; writes the times as JSON when it ends. Started by `benchmarks.profile`."""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from squall.control.calls.pool import Pool
from squall.control.calls.router import Router
from squall.gateway.main import main
from squall.gateway.rpc.session import ClientPeer
from squall.worker.containers.managed_container import ContainerPeer, Hosted

#: Hop -> when each call passed it, nanoseconds of the monotonic clock, which all processes of a machine share.
times: dict[str, list[int]] = {}


def clock(owner: Any, method: str, hop: str, when: Callable[..., bool] = lambda *_: True) -> None:
    """Note the time when `method` is entered, in calls that `when` is true for. Never when it has returned: the process that it woke may be further by then."""
    stamps, original = times.setdefault(hop, []), getattr(owner, method)

    def clocked(*args: Any) -> Any:
        if when(*args):
            stamps.append(time.monotonic_ns())
        return original(*args)

    setattr(owner, method, clocked)


def has_output(peer: Any) -> bool:
    return bool(peer._out)


if __name__ == "__main__":
    clock(ClientPeer, "data_received", "call read")
    clock(Router, "submit", "call decoded")
    clock(Hosted, "send", "container chosen")
    clock(ContainerPeer, "flush", "input encoded", has_output)
    clock(ContainerPeer, "data_received", "result read")
    clock(Pool, "result", "result decoded")
    clock(Router, "deliver", "outcome decided")
    clock(ClientPeer, "flush", "outcome encoded", has_output)
    try:
        main()
    finally:
        with open(os.environ["SQUALL_PROFILE_OUT"], "w") as file:
            json.dump(times, file)
