"""A client makes the server remember much: the server's memory stays within budgets, and others are served meanwhile."""

import itertools
import json
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import squall
from squall.sdk.client.client import Client, new_call_id
from squall.wire.framing import pack
from squall.wire.messages import DURABLE, OK, Await, Call, Fault, FunctionStatus, Output, Request
from support.waiting import wait_until

from .conftest import Runner
from .test_deploy import own

pytestmark = pytest.mark.root
__all__ = ["own"]

MIB = 1 << 20


def start(own: Runner, **settings: str) -> None:
    own.extra = settings
    started = own("server", "start")
    assert started.returncode == 0, started.stderr


def status(own: Runner) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(own("server", "status", "--json").stdout)
    return found


def rss(own: Runner) -> int:
    """Bytes of memory that the server has now."""
    pid = status(own)["pid"]
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def other_app() -> tuple[squall.App, Any]:
    app = squall.App("other")

    @app.function(serialized=True, name="double", cpu=0.1, memory=64, min_containers=1)
    def double(x: int) -> int:
        return 2 * x

    return app, double


def answers(messages: Iterator[msgspec.Struct], count: int) -> Counter[str]:
    """What the server says to so many messages, sent in batches, by the errors' codes."""
    connection = Client.default().connect(start=False)
    said: Counter[str] = Counter()
    for _ in range(0, count, 500):
        connection.sock.sendall(b"".join(pack(message) for message in itertools.islice(messages, 500)))
        for _ in range(500):
            answer = connection.receive(30)
            said[answer.code if isinstance(answer, Fault) else type(answer).__name__] += 1
    connection.close()
    return said


def test_class_parameters_that_are_junk_take_little_memory_and_no_time_from_others(own: Runner) -> None:
    start(own, SQUALL_CLASS_POOLS_FUNCTION="500")
    attacking = squall.App("attacking")

    @attacking.cls(serialized=True, cpu=1.0, memory=1024, scaledown_window=2)
    class Sized:
        size: int = squall.parameter()

        @squall.method()
        def get(self) -> int:
            return self.size

    app, double = other_app()
    with attacking.run(), app.run():
        assert Sized(size=3).get.remote() == 3
        assert double.remote(1) == 2
        _, function, _ = Sized(size=3)._place()
        before = rss(own)

        def calls(method: str, parameters: Iterator[bytes]) -> Iterator[Call]:
            return (Call(number, function, new_call_id(), 0, b"", method, DURABLE, parameters=junk) for number, junk in enumerate(parameters, 1))

        junk = (b"\xa1x%032x" % number for number in itertools.count())
        assert answers(calls("none", junk), 50_000) == {"not_found": 50_000}
        assert answers((Request(number, FunctionStatus(function, b"%d" % number)) for number in itertools.count(1)), 10_000) == {"Reply": 10_000}
        assert answers(calls("get", iter([b"x" * 70_000] * 500)), 500) == {"invalid": 500}
        said = answers(calls("get", junk), 90_000)
        assert said["resource_exhausted"] > 80_000, said
        assert rss(own) - before < 60 * MIB
        assert [double.remote(number) for number in range(20)] == [2 * number for number in range(20)]


def test_results_that_are_not_read_are_not_copied_for_each_who_waits(own: Runner) -> None:
    """A thousand waits for one result that the store has; and many calls with large results. None of it is read at first."""
    start(own, SQUALL_UNREAD_MIB="32")
    attacking = squall.App("attacking")

    @attacking.function(serialized=True, name="large", cpu=0.1, memory=256)
    def large(mib: int) -> bytes:
        return bytes(mib << 20)

    app, double = other_app()
    with attacking.run(), app.run():
        assert double.remote(1) == 2
        waited = large.spawn(10)
        assert len(waited.get()) == 10 << 20
        before = rss(own)
        client = Client.default()
        unread = client.connect(start=False)
        unread.sock.sendall(b"".join(pack(Await(number, waited.object_id)) for number in range(1, 1001)))
        assert double.remote(2) == 4
        for _ in range(100):
            assert double.remote(3) == 6
        assert rss(own) - before < 200 * MIB
        first = unread.receive(30)
        assert isinstance(first, Output)
        assert len(first.data) > 10 << 20
        unread.close()

        done = int(status(own)["inputs_done"])
        slow = client.connect(start=False)
        calls = [Call(number, large.object_id, new_call_id(), 0, pickle.dumps(((5,), {}))) for number in range(1, 61)]
        for call in calls:
            slow.send(call)
        wait_until(lambda: int(status(own)["inputs_done"]) >= done + len(calls), "the end of the calls")
        assert rss(own) - before < 250 * MIB
        assert double.remote(4) == 8
        got: dict[int, int] = {}
        with pytest.raises(EOFError):
            while True:
                answer = slow.receive(30)
                if isinstance(answer, Output):
                    got[answer.request] = answer.status
                else:
                    assert isinstance(answer, Fault)
                    assert answer.code == "resource_exhausted"
                    assert "SQUALL_UNREAD_MIB" in answer.message
        assert 0 < len(got) < len(calls)
        slow.close()
        again = client.connect(start=False)
        for call in calls:
            if call.request not in got:  # as a client does that comes back
                again.send(call)
                answer = again.receive(30)
                assert isinstance(answer, Output)
                got[answer.request] = answer.status
        again.close()
        assert got == {call.request: OK for call in calls}
        assert int(status(own)["inputs_done"]) == done + len(calls) + 1, "each call ran once"
