"""Rubbish from containers: the server fails at none of it, keeps its memory, and goes on for all others. Half a minute here; `scripts/fuzz` takes an hour."""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fuzzed
import pytest

import squall
from squall.exception import Error
from squall.sdk.client.launch import server_log
from squall.wire.messages import Call, FromClient, FromRunner, Request, Result
from support.frames import Frames

pytestmark = pytest.mark.root

SECONDS = float(os.environ.get("SQUALL_FUZZ_S", "30"))
SEED = int(os.environ.get("SQUALL_FUZZ_SEED", "0")) or secrets.randbits(32)
#: Of the server, over all that comes; some of it is kept by right.
GROWTH_MAX_MIB = 500
CONVERSATIONS, FRAMES = 20, 12


class Watched:
    """The server as it was when the rubbish began."""

    def __init__(self, data: Path) -> None:
        self.log, self.pid = server_log(data), int((data / "server.lock").read_text())
        self.read, self.before = self.log.stat().st_size, self.mib()

    def mib(self) -> float:
        return int(next(line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def check(self, story: str) -> None:
        assert fuzzed.double.remote(21) == 42, story
        assert self.mib() < self.before + GROWTH_MAX_MIB, story
        with self.log.open() as log:
            log.seek(self.read)
            said = log.read()
            self.read = log.tell()
        assert "Traceback" not in said, f"{story}\n{said[-6000:]}"


@pytest.fixture
def watched(data: Path) -> Iterator[Watched]:
    with fuzzed.bystander.run(), fuzzed.app.run():
        assert fuzzed.double.remote(1) == 2
        yield Watched(data)


def rounds(watched: Watched, one: Callable[[int], None]) -> None:
    """Seeds one after the other, for half of the time that there is."""
    end, seed = time.monotonic() + SECONDS / 2, SEED
    while time.monotonic() < end:
        one(seed)
        watched.check(f"SQUALL_FUZZ_SEED={seed} shows it")
        seed += 1


def known() -> list[str]:
    own = [fuzzed.app.app_id, *(function.object_id for function in fuzzed.app.registered_functions.values())]
    return [str(each) for each in (*own, fuzzed.bystander.app_id, fuzzed.double.object_id, "as_client", "double", "fuzzed")]


def test_what_clients_in_containers_send(watched: Watched) -> None:
    def one(seed: int) -> None:
        frames = Frames(seed, (FromClient, Request, Request, Call), known())
        conversations = [[frames.frame() for _ in range(FRAMES)] for _ in range(CONVERSATIONS)]
        failed = fuzzed.as_client.remote(conversations)
        assert not failed, f"SQUALL_FUZZ_SEED={seed}: {failed[0][1]}\n{[frame.hex() for frame in conversations[failed[0][0]]]}"

    rounds(watched, one)


def test_what_runners_send(watched: Watched) -> None:
    def one(seed: int) -> None:
        frames = Frames(seed, (FromRunner, Result), known())
        try:
            fuzzed.as_runner.remote([frames.frame() for _ in range(FRAMES)])
        except (Error, squall.exception.ExecutionError):
            return  # the container is ended for it, or said itself that its input failed

    rounds(watched, one)
