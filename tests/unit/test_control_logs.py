"""What containers print takes a share of disk and memory, however it is cut, and the newest of it is kept."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from squall.control.logs import BACKLOG_BYTES, MIB, Limits, LogBook, from_environment
from squall.model.errors import InvalidError
from squall.wire.messages import LogChunk

LIMITS = Limits(container=MIB // 4, app=3 * MIB // 4, total=5 * MIB // 4)


New = Callable[..., LogBook]


@pytest.fixture
def new() -> Iterator[New]:
    """Makes log books, whose files are closed at the end."""
    made: list[LogBook] = []

    def make(folder: Path, limits: Limits = LIMITS) -> LogBook:
        made.append(LogBook(folder, limits))
        return made[-1]

    yield make
    for book in made:
        book.close_all()


def chunk(size: int) -> LogChunk:
    return LogChunk(0, "ct-1", "f", 1, bytes(size), 0.0)


def lines(logs: LogBook, app: str, container: str, count: int, at: float = 1.0) -> None:
    """Print so many lines of a hundred bytes, numbered."""
    for number in range(count):
        logs.write(app, LogChunk(0, container, "f", 1, f"{number:<99}\n".encode(), at))


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.log"))


async def kept(logs: LogBook, container: str) -> list[str]:
    return [line.strip() for each in [chunk.data async for chunk in logs.replay(container)] for line in each.decode().splitlines()]


async def test_a_full_log_keeps_its_newest_lines_and_says_what_is_not_kept(new: New, tmp_path: Path) -> None:
    logs = new(tmp_path)
    lines(logs, "ap-1", "ct-1", 8_000)
    assert on_disk(tmp_path) <= LIMITS.container
    marker, *rest = await kept(logs, "ct-1")
    assert "bytes of this log from before here are not kept" in marker
    assert rest == [str(number) for number in range(8_000 - len(rest), 8_000)]
    assert len(rest) * 100 > LIMITS.container // 2


async def test_one_large_chunk_does_not_pass_the_limit_of_a_log(new: New, tmp_path: Path) -> None:
    logs = new(tmp_path)
    logs.write("ap-1", chunk(10))
    logs.write("ap-1", chunk(10 * MIB))
    logs.write("ap-1", chunk(10))
    assert on_disk(tmp_path) <= LIMITS.container


async def test_containers_that_die_and_print_again_share_what_their_app_may_have(new: New, tmp_path: Path) -> None:
    logs = new(tmp_path)
    lines(logs, "ap-2", "ct-quiet", 10)
    for number in range(20):
        lines(logs, "ap-1", f"ct-{number}", 2_500)
        logs.close(f"ct-{number}")
    assert on_disk(tmp_path / "ap-1") <= LIMITS.app
    assert await kept(logs, "ct-0") == []
    assert (await kept(logs, "ct-19"))[-1] == "2499"
    assert len(await kept(logs, "ct-quiet")) == 10


async def test_all_logs_share_what_they_may_have_and_the_app_with_most_gives(new: New, tmp_path: Path) -> None:
    logs = new(tmp_path)
    lines(logs, "ap-small", "ct-small", 300)
    for app in range(6):
        for number in range(4):
            lines(logs, f"ap-{app}", f"ct-{app}-{number}", 1_800)
    assert on_disk(tmp_path) <= LIMITS.total
    assert len(await kept(logs, "ct-small")) == 300


def test_very_many_small_logs_are_bounded_too(new: New, tmp_path: Path) -> None:
    logs = new(tmp_path)
    for number in range(600):
        lines(logs, "ap-1", f"ct-{number}", 1)
        logs.close(f"ct-{number}")
    assert len(list(tmp_path.rglob("*.log"))) <= LIMITS.app // 4096


async def test_the_next_server_takes_logs_up_and_goes_on_with_them(new: New, tmp_path: Path) -> None:
    first = new(tmp_path)
    for number in range(3):
        lines(first, "ap-1", f"ct-{number}", 100)
    (tmp_path / "ap-1" / "ct-1.log").rename(tmp_path / "ct-1.log")  # where the first versions had it
    second = new(tmp_path)
    lines(second, "ap-1", "ct-2", 10)
    assert (await kept(second, "ct-2"))[-10:] == [str(number) for number in range(10)]
    assert (await kept(second, "ct-1"))[-1] == "99"
    for number in range(3, 9):
        lines(second, "ap-1", f"ct-{number}", 2_200)
    assert on_disk(tmp_path / "ap-1") <= LIMITS.app
    assert on_disk(tmp_path) <= LIMITS.total


async def test_the_last_lines_of_a_full_log_are_read_from_its_last_file(new: New, tmp_path: Path) -> None:
    logs = new(tmp_path)
    lines(logs, "ap-1", "ct-0", 2_200)
    lines(logs, "ap-1", "ct-1", 8_000)
    read = 0
    given = []
    async for each in logs.tail(["ct-0", "ct-1"], 3):
        read += len(each.data)
        given += each.data.decode().splitlines()
    assert [line.strip() for line in given[-3:]] == ["7997", "7998", "7999"]
    assert read <= 2 * LIMITS.container // 16
    all_of_it = [each async for each in logs.tail(["ct-0", "ct-1"], 1_000_000)]
    assert len(all_of_it) > 2_000


async def test_logs_of_ended_containers_go_by_age(new: New, tmp_path: Path) -> None:
    logs = new(tmp_path)
    for container in ("ct-old", "ct-runs", "ct-new"):
        lines(logs, "ap-1", container, 5, at=1000.0 if container == "ct-new" else 10.0)
        if container != "ct-runs":
            logs.close(container)
    assert logs.sweep(100.0) == 1
    assert [len(await kept(logs, name)) for name in ("ct-old", "ct-runs", "ct-new")] == [0, 5, 5]


async def test_output_that_could_not_be_written_is_a_gap_that_is_told(new: New, tmp_path: Path) -> None:
    logs = new(tmp_path)
    lines(logs, "ap-1", "ct-1", 3)
    logs.close("ct-1")
    shutil.rmtree(tmp_path / "ap-1")
    (tmp_path / "ap-1").write_text("no folder can be made here")
    lines(logs, "ap-1", "ct-1", 2)
    (tmp_path / "ap-1").unlink()
    lines(logs, "ap-1", "ct-1", 1)
    marker, line = await kept(logs, "ct-1")
    assert "are not kept" in marker
    assert line == "0"


def test_a_limit_that_is_no_number_is_refused() -> None:
    assert from_environment({"SQUALL_LOG_APP_MIB": "2"}).app == 2 * MIB
    with pytest.raises(InvalidError, match="SQUALL_LOGS_MAX_GIB"):
        from_environment({"SQUALL_LOGS_MAX_GIB": "-1"})


async def test_a_slow_reader_is_skipped_over_by_bytes_too(new: New, tmp_path: Path) -> None:
    logs = new(tmp_path)
    with logs.follow(lambda chunk: False, app="ap-1") as follower:
        for _ in range(5):
            logs.write("ap-1", chunk(BACKLOG_BYTES // 3))
    assert follower.skipped == 2
    logs.close("ct-1")
