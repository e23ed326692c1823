"""Functions for tests/e2e: several inputs in one container, and batches."""

import asyncio
import contextvars
import socket
import threading
import time

import squall

app = squall.App("together")

variable = contextvars.ContextVar("variable", default=None)


@app.function(max_containers=1)
@squall.concurrent(max_inputs=8)
def threads(x: int):
    variable.set(x)
    print("begin", x, end=" ")
    time.sleep(0.2)
    print("end", x)
    return x, variable.get(), squall.current_input_id(), squall.current_function_call_id(), socket.gethostname(), threading.get_ident()


@app.function(max_containers=1)
@squall.concurrent(max_inputs=8)
async def tasks(x: int):
    variable.set(x)
    print("begin", x, end=" ")
    await asyncio.sleep(0.2)
    print("end", x)
    return x, variable.get(), squall.current_input_id(), squall.current_function_call_id(), socket.gethostname()


@app.function(max_containers=1)
@squall.concurrent(max_inputs=4)
def sleeper(seconds: float):
    end = time.time() + seconds
    while time.time() < end:
        time.sleep(0.01)
    return socket.gethostname()


@app.function(max_containers=1)
@squall.concurrent(max_inputs=4)
async def sleeper_async(seconds: float):
    await asyncio.sleep(seconds)
    return socket.gethostname()


@app.function()
@squall.batched(max_batch_size=4, wait_ms=400)
def divide(xs: list, ys: list):
    return [(x / y, len(xs)) for x, y in zip(xs, ys, strict=True)]


@app.function()
@squall.batched(max_batch_size=4, wait_ms=400)
async def divide_async(xs: list, ys: list):
    await asyncio.sleep(0.01)
    return [(x / y, len(xs)) for x, y in zip(xs, ys, strict=True)]


@app.function()
@squall.batched(max_batch_size=4, wait_ms=50)
def too_many(xs: list):
    return [*xs, 0]


@app.function()
@squall.batched(max_batch_size=4, wait_ms=50)
def no_list(xs: list):
    return "xs"


@app.cls()
class Batched:
    factor: int = squall.parameter(default=2)

    @squall.batched(max_batch_size=3, wait_ms=400)
    async def times(self, xs: list):
        return [(x * self.factor, len(xs)) for x in xs]


@app.function()
def single(x: int):
    return x
