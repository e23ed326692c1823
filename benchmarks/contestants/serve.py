"""The loop of a contestant: a line of JSON in, a line of JSON out, until stdin ends. Standard library only, since it runs in every peer's environment."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def serve(
    call: Callable[[int], int],
    many: Callable[[int], Iterable[int]],
    *,
    where: Callable[[], dict[str, Any]] | None = None,
    spawn: Callable[[int], float] | None = None,
    large: Callable[[int], float] | None = None,
    other: Mapping[str, Callable[[int], dict[str, Any]]] | None = None,
) -> None:
    """Answer requests.

    Args:
        call: squares its argument elsewhere, and waits.
        many: gives the squares of ``range(n)``, in order.
        where: facts about the place where the work is done.
        spawn: hands over n inputs for good and returns the seconds until all were taken; it waits for their results after the clock has stopped.
        large: sends so many inputs of 1 MiB there, one after another, and returns the seconds.
        other: further requests, by name.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # What a library prints must not get between the answers.

    def calls(n: int) -> dict[str, Any]:
        times = []
        for i in range(n):
            begin = time.perf_counter()
            result = call(i)
            times.append(time.perf_counter() - begin)
            assert result == i * i
        return {"times": times}

    def maps(n: int) -> dict[str, Any]:
        begin = time.perf_counter()
        results = list(many(n))
        seconds = time.perf_counter() - begin
        assert results == [i * i for i in range(n)]
        return {"seconds": seconds}

    def spawns(n: int) -> dict[str, Any]:
        assert spawn is not None
        return {"seconds": spawn(n)}

    def sends(n: int) -> dict[str, Any]:
        assert large is not None
        return {"seconds": large(n)}

    work: dict[str, Callable[[int], dict[str, Any]]] = {
        "calls": calls,
        "map": maps,
        "spawn": spawns,
        "large": sends,
        "where": lambda _: where() if where else {},
        **(other or {}),
    }
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(work[request["do"]](request["n"])), file=answers, flush=True)
