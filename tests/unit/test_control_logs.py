"""What a container prints takes a share of disk and memory, however it is cut."""

from pathlib import Path

from squall.control.logs import BACKLOG_BYTES, LOG_BYTES_MAX, LogBook
from squall.wire.messages import LogChunk


def chunk(size: int) -> LogChunk:
    return LogChunk(0, "ct-1", "f", 1, bytes(size), 0.0)


def test_one_large_chunk_does_not_pass_the_limit_of_a_log(tmp_path: Path) -> None:
    logs = LogBook(tmp_path)
    logs.write("ap-1", chunk(10))
    logs.write("ap-1", chunk(2 * LOG_BYTES_MAX))
    logs.write("ap-1", chunk(10))
    assert LOG_BYTES_MAX <= logs.path("ct-1").stat().st_size < LOG_BYTES_MAX + 1000
    logs.close("ct-1")


async def test_a_slow_reader_is_skipped_over_by_bytes_too(tmp_path: Path) -> None:
    logs = LogBook(tmp_path)
    with logs.follow(lambda chunk: False, app="ap-1") as follower:
        for _ in range(5):
            logs.write("ap-1", chunk(BACKLOG_BYTES // 3))
    assert follower.skipped == 2
    logs.close("ct-1")
