"""Items of a generator arrive one by one, while it still runs in its container.

squall run examples/generator.py --limit 50
squall run examples/generator.py::primes --limit 10
"""

from collections.abc import Iterator

import squall

app = squall.App("generator")


@app.function()
def primes(limit: int) -> Iterator[int]:
    """The primes below `limit`."""
    sieve = bytearray([1]) * limit
    for number in range(2, limit):
        if sieve[number]:
            yield number
            for multiple in range(number * number, limit, number):
                sieve[multiple] = 0


@app.local_entrypoint()
def main(limit: int = 100) -> None:
    """Print primes as they come, then stop one generator early."""
    print(*primes.remote_gen(limit))
    for prime in primes.remote_gen(10_000_000):
        if prime > 1000:
            print(f"the first prime above 1000 is {prime}")
            break
