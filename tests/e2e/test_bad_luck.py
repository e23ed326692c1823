"""Processes that stand still, results that only their container can read, functions that can't start: each is told, and none spoils what comes after."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import unlucky

import squall
from squall.exception import DeserializationError, FunctionTimeoutError, RemoteError
from squall.sdk.client.client import Client
from squall.wire.messages import ListCalls, ListContainers, Rows
from support.waiting import wait_until

from .conftest import SQUALL

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


def calls(app: squall.App) -> list[dict[str, object]]:
    rows = Client.default().request(ListCalls(str(app.app_id)))
    assert isinstance(rows, Rows)
    return list(rows.rows)


def test_a_container_that_stands_still_times_out_and_is_replaced() -> None:
    first = unlucky.spin.remote(0)
    [row] = [row for row in containers("spin") if row["id"] == first]
    [program] = Path(f"/proc/{row['pid']}/task/{row['pid']}/children").read_text().split()
    os.kill(int(program), signal.SIGSTOP)
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


def test_an_app_that_ends_ends_the_call_that_waits_for_its_next_attempt(data: Path) -> None:
    with unlucky.ending.run(), ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(unlucky.again_later.remote)
        shown = wait_until(lambda: [row for row in calls(unlucky.ending) if row["attempts"] and row["state"] == "queued"], "a first attempt")
        assert "its next attempt comes in" in str(shown[0]["waits_for"])
        subprocess.run([SQUALL, "app", "stop", "-y", str(unlucky.ending.app_id)], check=True, capture_output=True)
        with pytest.raises(RemoteError, match="cancelled"):
            waiting.result(20)


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
