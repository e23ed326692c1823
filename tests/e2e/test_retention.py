"""Results go when their time has come, and `squall server status` says what is kept."""

import json
import subprocess
import sys

import pytest

from support.waiting import wait_until

from .conftest import Runner

pytestmark = pytest.mark.root

PROGRAM = r"""
import sys, time
import squall

app = squall.App("expiring")

@app.function()
def double(i: int) -> int:
    return 2 * i

@app.local_entrypoint()
def main():
    calls = [double.spawn(i) for i in range(3)]
    sys.stdout.write(f"{[call.get(timeout=60) for call in calls]}\n")
    sys.stdout.write(f"{calls[0].object_id}\n")
"""
ASKING = r"""
import sys
import squall

try:
    print(squall.FunctionCall.from_id(sys.argv[1]).get(timeout=10))
except squall.exception.OutputExpiredError as error:
    print("expired:", error)
except squall.exception.NotFoundError as error:
    print("unknown:", error)
"""
A_MOMENT = str(1.0 / 86_400)  # days


@pytest.fixture
def own(own: Runner) -> Runner:
    own.program("expiring.py", PROGRAM)
    own.program("asking.py", ASKING)
    return own


def spawned(own: Runner) -> str:
    done = own("run", "expiring.py")
    assert done.returncode == 0, done.stderr
    values, call = done.stdout.splitlines()
    assert values == "[0, 2, 4]"
    return call


def ask(own: Runner, call: str) -> str:
    done = subprocess.run([sys.executable, "asking.py", call], cwd=own.folder, env=own.env, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def status(own: Runner) -> dict[str, dict[str, int]]:
    done = own("server", "status", "--json")
    assert done.returncode == 0, done.stderr
    facts: dict[str, dict[str, int]] = json.loads(done.stdout)
    return facts


def test_a_result_expires_and_its_rows_go(own: Runner) -> None:
    own.extra = {"SQUALL_RESULTS_DAYS": A_MOMENT, "SQUALL_RUNS_DAYS": A_MOMENT, "SQUALL_HISTORY_DAYS": A_MOMENT}
    call = spawned(own)
    assert status(own)["kept"]["apps"] == 1
    assert own("server", "stop").returncode == 0
    assert own("server", "start").returncode == 0  # its first sweep comes soon
    said = ask(own, call)
    assert said.startswith("expired: the result of fc-"), said
    wait_until(lambda: own("call", "show", call).returncode != 0, timeout_s=60)
    assert ask(own, call).startswith("expired: ")  # also when nothing is left of it but its id, which says how old it is
    assert ask(own, "fc-" + "f" * 32).startswith("unknown: ")


def test_the_status_says_what_is_kept_and_a_call_is_found_by_its_beginning(own: Runner) -> None:
    call = spawned(own)
    assert own("server", "stop").returncode == 0
    assert own("server", "start").returncode == 0  # so that it is not in the server's memory
    facts = status(own)
    assert facts["kept"]["results"] == 3
    assert facts["kept"]["apps"] == 1
    assert facts["retention"] == {"results_days": 7, "runs_days": 7, "history_days": 30, "logs_days": 30, "history_rows": 1_000_000, "database_gib": 4}
    text = own("server", "status").stdout
    assert ", results 3, " in text
    assert "results days 7, runs days 7, history days 30, logs days 30, history rows 1000000, database gib 4" in text
    shown = own("call", "show", call[:-6], "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)[0]["call"] == call
    assert ask(own, call).strip() == "0"
    own.extra = {"SQUALL_RESULTS_DAYS": "none"}
    assert own("server", "stop").returncode == 0
    refused = own("server", "start")
    assert refused.returncode == 1
    assert "SQUALL_RESULTS_DAYS='none' is not a positive number" in refused.stderr


FAILING = r"""
import sys
import squall

app = squall.App("failing")
tried = squall.Dict.from_name("tried", create_if_missing=True)

@app.function(retries=2)
def third_time() -> int:
    count = tried.get("count", 0) + 1
    tried["count"] = count
    if count < 3:
        raise ValueError(f"time {count}")
    return count

@app.local_entrypoint()
def main():
    call = third_time.spawn()
    sys.stdout.write(f"{call.get(timeout=60)}\n{call.object_id}\n")
"""


def test_attempts_that_failed_are_told_also_after_a_restart(own: Runner) -> None:
    own.program("failing.py", FAILING)
    done = own("run", "failing.py")
    assert done.returncode == 0, done.stderr
    value, call = done.stdout.splitlines()
    assert value == "3"

    def failures() -> list[str]:
        shown = own("call", "show", call, "--json")
        assert shown.returncode == 0, shown.stderr
        return [attempt["error"] for attempt in json.loads(shown.stdout)[0]["failed_attempts"]]

    wait_until(lambda: len(failures()) == 2)  # they are written with the next transaction, at the latest after a moment
    assert own("server", "stop").returncode == 0
    assert own("server", "start").returncode == 0
    assert failures() == ["ValueError: time 1", "ValueError: time 2"]
    assert "ValueError: time 2" in own("call", "show", call).stdout
