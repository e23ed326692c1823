"""Functions for tests/e2e: what bad luck and bad input meet."""

import os
import time
from typing import Any

import squall

app = squall.App("unlucky")


@app.function(timeout=1)
def spin(seconds: float) -> str:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
    return os.environ["SQUALL_CONTAINER_ID"]


class OnlyThere:
    """Can be unpickled in a container only."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _there, ()


def _there() -> OnlyThere:
    if "SQUALL_CONTAINER_ID" not in os.environ:
        raise LookupError("not at home")
    return OnlyThere()


@app.function()
def only_there() -> OnlyThere:
    return OnlyThere()


@app.cls()
class NeverReady:
    @squall.enter()
    def enter(self) -> None:
        raise LookupError("no model here")

    @squall.method()
    def f(self) -> None:
        """Is never run."""


#: Ends while its only call waits for its next attempt.
ending = squall.App("ending")


@ending.function(retries=squall.Retries(max_retries=1, initial_delay=50.0))
def again_later() -> None:
    raise LookupError("not yet")
