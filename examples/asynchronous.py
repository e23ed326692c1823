"""Async functions in containers, and calls from an event loop: every blocking method has an `.aio` twin.

squall run examples/asynchronous.py --n 5
"""

import asyncio

import squall

app = squall.App("asynchronous")


@app.function()
async def shout(word: str) -> str:
    """An async function runs on its container's event loop."""
    await asyncio.sleep(0.01)
    return word.upper()


@app.function()
async def countdown(start: int):
    """An async generator."""
    for number in range(start, 0, -1):
        yield number


@app.local_entrypoint()
async def main(n: int = 3) -> None:
    """Call several at once, map over them, and take a generator's items."""
    print(await asyncio.gather(shout.remote.aio("one"), shout.remote.aio("two")))
    print([word async for word in shout.map.aio(f"word {i}" for i in range(n))])
    async for number in countdown.remote_gen.aio(n):
        print(number)
    print("lift-off")
