"""Functions for tests/e2e: what goes wrong in user code."""

import ctypes
import os
import sys
import threading
import time

import squall

app = squall.App("failing")


class OwnError(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code


class Stubborn(Exception):
    """Can't be pickled: it holds a lock."""

    def __init__(self) -> None:
        super().__init__("stubborn")
        self.lock = threading.Lock()


@app.function()
def own(code: int) -> None:
    raise OwnError("of the user's", code)


@app.function()
def chained() -> None:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        raise RuntimeError("outer") from error


@app.function()
def stubborn() -> None:
    raise Stubborn


@app.function()
def lock_result() -> object:
    return threading.Lock()


@app.function(max_containers=1)
def leave(how: str) -> str:
    if how == "sys.exit":
        sys.exit(4)
    if how == "os._exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    return how


@app.function()
@squall.concurrent(max_inputs=2)
def leave_while_others_run() -> None:
    sys.exit("done here")


@app.function()
def interrupted() -> None:
    raise KeyboardInterrupt("here")


@app.function()
async def interrupted_later() -> None:
    raise KeyboardInterrupt("here")


@app.function()
def gives(size: int) -> bytes:
    return bytes(size)


@app.function(memory=(128, 256))
def hog(mib: int) -> int:
    block = bytearray(mib << 20)
    for at in range(0, len(block), 4096):
        block[at] = 1
    return len(block) >> 20


@app.function(timeout=1)
def sleeper(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.function(timeout=1)
def spinner(seconds: float) -> float:
    end = time.time() + seconds
    while time.time() < end:
        pass
    return seconds


@app.function()
def half(x: int) -> int:
    if x == 3:
        raise ValueError(f"no {x}")
    return x


@app.function(retries=3)
def third_time(path: str) -> int:
    tries = int(os.environ.get("TRIES", "0")) + 1
    os.environ["TRIES"] = str(tries)
    if tries < 3:
        raise RuntimeError(f"try {tries}")
    return tries


@app.function(max_containers=1)
def quick_or_deadly(x: int) -> int:
    if x == 500:
        os._exit(7)
    return x
