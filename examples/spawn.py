"""Start calls without waiting, keep their ids, and fetch the results later.

squall run examples/spawn.py --rounds 200000
"""

import random

import squall

app = squall.App("spawn")


@app.function(timeout=120)
def estimate_pi(rounds: int, seed: int) -> float:
    """By throwing darts at a square."""
    throw = random.Random(seed).random
    inside = sum(throw() ** 2 + throw() ** 2 < 1 for _ in range(rounds))
    return 4 * inside / rounds


@app.local_entrypoint()
def main(rounds: int = 100_000) -> None:
    """Spawn four estimates, find one again by its id, and average them."""
    calls = [estimate_pi.spawn(rounds, seed) for seed in range(4)]
    print(f"spawned {len(calls)} calls; this program is free to do other things")
    again = squall.FunctionCall.from_id(calls[0].object_id)
    print(f"the first one says {again.get():.3f}")
    values = squall.FunctionCall.gather(*calls)
    print(f"together they say {sum(values) / len(values):.3f}")
