"""Sequential calls with a clock at the caller's end and one in the function; prints JSON. Started by `benchmarks.profile`."""

import json
import sys
import time
from typing import Any

import squall
from squall.wire.blocking import BlockingConnection

app = squall.App("profile")
times: dict[str, list[int]] = {name: [] for name in ("begun", "pickled", "answer read", "done", "function entered")}


@app.function(max_containers=1)
def entered() -> int:
    """When it was entered, on the clock that all processes of a machine share."""
    return time.monotonic_ns()


def main(n: int) -> None:
    send, receive = BlockingConnection.send, BlockingConnection.receive

    def clocked_send(self: Any, message: Any) -> None:
        times["pickled"].append(time.monotonic_ns())
        send(self, message)

    def clocked_receive(self: Any, timeout_s: float | None = None) -> Any:
        message = receive(self, timeout_s)
        times["answer read"].append(time.monotonic_ns())
        return message

    with app.run():
        entered.remote()
        BlockingConnection.send, BlockingConnection.receive = clocked_send, clocked_receive  # type: ignore[method-assign]
        for _ in range(n):
            begun = time.monotonic_ns()
            there = entered.remote()
            times["done"].append(time.monotonic_ns())
            times["begun"].append(begun)
            times["function entered"].append(there)
        print(json.dumps({name: stamps[:n] for name, stamps in times.items()}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
