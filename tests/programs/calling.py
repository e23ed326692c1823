"""Functions for tests/e2e: what ordinary programs do."""

import asyncio
import os
import socket
import sys
import time

import squall

app = squall.App("calling")


@app.function()
def square(x: int, plus: int = 0) -> int:
    return x * x + plus


@app.function()
def where() -> dict:
    return {"pid": os.getpid(), "host": socket.gethostname(), "local": squall.is_local(), "pid_ns": os.readlink("/proc/self/ns/pid"), "cwd": os.getcwd()}


@app.function()
def ids() -> tuple:
    return squall.current_function_call_id(), squall.current_input_id()


@app.function()
async def later(x: int) -> int:
    await asyncio.sleep(0.01)
    return x + 1


@app.function()
def count(n: int):
    for i in range(n):
        yield i


@app.function()
async def count_async(n: int):
    for i in range(n):
        await asyncio.sleep(0)
        yield i


@app.function()
def speak(text: str) -> None:
    print(f"out {text}")
    print(f"err {text}", file=sys.stderr)
    os.system(f"echo raw {text}")


@app.function()
def outer(x: int) -> int:
    return square.remote(x) + sum(square.map([1, 2]))


@app.function()
def take(gate: squall.Queue) -> object:
    """Runs until something is put in."""
    return gate.get(timeout=60)


@app.function(max_containers=3)
def slow_square(x: int) -> tuple:
    time.sleep(0.3)
    return x * x, socket.gethostname()


@app.function(scaledown_window=2)
def brief() -> str:
    return socket.gethostname()


@app.function()
def echo(value: object) -> object:
    return value
