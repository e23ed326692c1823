"""A container that uses its agent's socket as no runner and no client would: nobody else is held up, and the server's memory and descriptors stay its own."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import hostile
import pytest

import squall
from squall.exception import GeneratorInterruptedError, InternalFailure, NotFoundError
from support.waiting import wait_until

pytestmark = pytest.mark.root

#: Of the server, between one look and the next; a few frames and answers of some megabytes are on their way.
GROWTH_MAX_MIB = 400


class Server:
    def __init__(self, data: Path) -> None:
        self.process = Path("/proc") / (data / "server.lock").read_text().strip()

    def descriptors(self) -> int:
        return len(os.listdir(self.process / "fd"))

    def peak_mib(self) -> float:
        """The most memory that it has had."""
        return int(next(line for line in (self.process / "status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[Server]:
    with hostile.app.run():
        assert hostile.come_and_go.remote(1) == 1
        yield Server(data)


def test_a_container_that_spoils_what_it_leaves_is_missed_all_the_same(server: Server) -> None:
    with pytest.raises(InternalFailure, match="lost"):  # it did not say which input it was at
        hostile.spoil_what_is_left.remote()


def test_connections_of_clients_leave_no_descriptors(server: Server) -> None:
    before = server.descriptors()
    assert hostile.come_and_go.remote(200) == 200
    wait_until(lambda: server.descriptors() < before + 50, "the ends of the connections")


def test_a_container_has_a_share_of_the_servers_descriptors(server: Server) -> None:
    before = server.descriptors()
    assert 0 < hostile.connect_often.remote("client", 2000, 512) <= 512
    assert hostile.connect_often.remote("web", 2000, 0) == 0  # nobody asked for one
    assert server.descriptors() < before + 1200
    assert hostile.be_ready_again.remote(1) == 1


def test_questions_without_an_answer_read_are_not_taken(server: Server) -> None:
    name = f"large-{secrets.token_hex(4)}"
    squall.Dict.objects.create(name)
    before = server.peak_mib()
    hostile.ask_and_not_read.remote(name, 500)
    assert server.peak_mib() < before + GROWTH_MAX_MIB
    squall.Dict.objects.delete(name)


def test_frames_that_never_end_are_taken_from_a_container_only_up_to_a_limit(server: Server) -> None:
    assert hostile.begin_frames.remote(28, 50 << 20) < 25


def test_a_container_is_ready_once(server: Server) -> None:
    assert hostile.be_ready_again.remote(20_000) == 20_000


def test_a_generator_sends_what_it_is_asked_for(server: Server) -> None:
    with pytest.raises(GeneratorInterruptedError, match="lost"):
        for item in hostile.more_than_asked_for.remote_gen():
            assert item == 1


def test_volumes_of_others_are_neither_made_nor_found_nor_ended(server: Server) -> None:
    name = f"not-there-{secrets.token_hex(4)}"
    with squall.Volume.ephemeral() as volume:
        assert hostile.reach_for.remote(name, volume.object_id) == ["permission_denied", "permission_denied", "not_found"]
        assert volume.listdir("/") == []
    with pytest.raises(NotFoundError):
        squall.Volume.from_name(name).listdir("/")
