"""Generators for tests/e2e whose containers are lost while they yield."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator

import squall

app = squall.App("streaming")


@app.function()
def count(n: int, first: float = 0.0) -> Iterator[int]:
    time.sleep(first)
    for number in range(n):
        yield number
        time.sleep(0.02)


@app.function()
@squall.concurrent(max_inputs=4)
async def count_async(n: int) -> AsyncIterator[int]:
    for number in range(n):
        yield number
        await asyncio.sleep(0.02)


@app.function(timeout=1)
def slow(n: int) -> Iterator[int]:
    yield from range(n)
    time.sleep(60)


@app.function()
def exits(n: int) -> Iterator[int]:
    yield from range(n)
    os._exit(5)
