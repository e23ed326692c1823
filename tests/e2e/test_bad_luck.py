"""Processes that stand still, results that only their container can read, functions that can't start: each is told, and none spoils what comes after."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import unlucky

import squall
from squall.exception import DeserializationError, FunctionTimeoutError
from squall.sdk.client import Client
from squall.wire.messages import ListContainers, Rows

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def running(data: object) -> Iterator[squall.App]:
    with unlucky.app.run():
        yield unlucky.app


def containers(tag: str) -> list[dict[str, object]]:
    """Of one function, also those that have ended."""
    rows = Client.default().request(ListContainers(str(unlucky.app.app_id), True))
    assert isinstance(rows, Rows)
    return [row for row in rows.rows if row["function"] == tag]


def test_a_container_that_stands_still_times_out_and_is_replaced() -> None:
    first = unlucky.spin.remote(0)
    [row] = [row for row in containers("spin") if row["id"] == first]
    os.kill(int(str(row["pid"])), signal.SIGSTOP)
    with pytest.raises(FunctionTimeoutError, match="timeout of 1 s"):
        unlucky.spin.remote(0)
    assert unlucky.spin.remote(0) != first


def test_a_server_and_worker_that_stand_still_are_waited_for(data: Path) -> None:
    place = unlucky.spin.remote(0)
    server = int((data / "server.lock").read_text())
    said: list[str] = []
    os.kill(server, signal.SIGSTOP)
    try:
        waiting = threading.Thread(target=lambda: said.append(unlucky.spin.remote(0.1)))
        waiting.start()
        waiting.join(1.0)
        assert waiting.is_alive()
    finally:
        os.kill(server, signal.SIGCONT)
    waiting.join(30)
    assert said == [place]


def test_a_result_that_can_not_be_unpickled_here_is_named() -> None:
    with pytest.raises(DeserializationError, match="only_there.*not at home"):
        unlucky.only_there.remote()


def test_a_function_that_can_not_start_is_backed_off_and_not_spun() -> None:
    until = time.monotonic() + 2.0
    calls = 0
    while time.monotonic() < until:
        with pytest.raises(LookupError, match="no model here"):
            unlucky.NeverReady().f.remote()
        calls += 1
    # Pauses of 0.5 and 1 s between starts, and then of more.
    assert 1 <= len(containers("NeverReady")) <= 4, (calls, containers("NeverReady"))
