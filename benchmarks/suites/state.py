"""What programs keep between calls: volumes beside the bare disk, dicts, queues, many small files, a server over a long history."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from benchmarks.process import Contestant
from benchmarks.report import Invalid, Metric, Report
from benchmarks.server import environment, stop_server
from squall.store.engine import make_engine
from squall.store.sql import SqlStore

METRICS = {
    "volume_write_ratio_to_host": Metric("×", 0.95, lower=False),
    "volume_read_ratio_to_host": Metric("×", 0.95, lower=False),
    "host_write_mb_per_s": Metric("MB/s", lower=False),
    "host_read_mb_per_s": Metric("MB/s", lower=False),
    "dict_put_p50_ms": Metric("ms"),
    "dict_get_p50_ms": Metric("ms"),
    "dict_put_and_get_p50_ms": Metric("ms", 0.4),
    "queue_items_per_s": Metric("1/s", 10_000.0, lower=False),
    "put_10000_files_s": Metric("s", 3.0),
    "ls_100000_entries_s": Metric("s", 1.0),
    "open_a_million_calls_s": Metric("s", 2.0),
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each; figures of the full size carry the names, a quick run only tries the suite."""

    rounds: int
    file_mib: int
    dict: int
    queue: int
    files: int
    entries: int
    calls: int


FULL = Size(rounds=5, file_mib=256, dict=1_000, queue=50_000, files=10_000, entries=100_000, calls=1_000_000)
QUICK = Size(rounds=2, file_mib=64, dict=200, queue=5_000, files=1_000, entries=10_000, calls=50_000)


def run(peers: Sequence[str], quick: bool) -> Report:
    """Measure. Raises Invalid when a figure would not be about what its name says."""
    if peers:
        raise Invalid("this suite has no peers")
    size, report, env = QUICK if quick else FULL, Report(METRICS), environment()
    say("opening a long history")
    for _ in range(size.rounds):
        report.add("open_a_million_calls_s", open_s(size.calls, env))
    try:
        with Contestant("state", "state_program", env=env) as program:
            for number in range(size.rounds):
                say(f"round {number + 1} of {size.rounds}")
                one_round(report, size, program)
            program.ask("fill", size.entries)
            for _ in range(size.rounds):
                report.add("ls_100000_entries_s", ls_s(size.entries, env))
            with tempfile.TemporaryDirectory(prefix="squall-bench-") as folder:
                make_files(Path(folder), size.files)
                for number in range(size.rounds):
                    report.add("put_10000_files_s", put_s(Path(folder), f"/put-{number}/", env))
    finally:
        stop_server()
    return report


def one_round(report: Report, size: Size, program: Contestant) -> None:
    """The container and the host in turns."""
    seconds = {what: program.ask(what, size.file_mib)["seconds"] for what in ("host-write", "host-read", "inside-write", "inside-read")}
    megabytes = size.file_mib * (1 << 20) / 1e6
    for what in ("write", "read"):
        report.add(f"volume_{what}_ratio_to_host", seconds[f"host-{what}"] / seconds[f"inside-{what}"])
        report.add(f"host_{what}_mb_per_s", megabytes / seconds[f"host-{what}"])
    times = program.ask("dict", size.dict)
    if times["pid_namespace"] == times["client_pid_namespace"]:
        raise Invalid("the dict was used outside a container")
    report.add("dict_put_p50_ms", statistics.median(times["puts"]) * 1e3)
    report.add("dict_get_p50_ms", statistics.median(times["gets"]) * 1e3)
    report.add("dict_put_and_get_p50_ms", statistics.median(map(sum, zip(times["puts"], times["gets"], strict=True))) * 1e3)
    report.add("queue_items_per_s", size.queue / program.ask("queue", size.queue)["seconds"])


def make_files(folder: Path, count: int) -> None:
    """Files of 1 KiB, a hundred to a directory."""
    for number in range(count):
        place = folder / f"{number // 100:03}"
        place.mkdir(exist_ok=True)
        (place / f"{number:05}").write_bytes(os.urandom(512) * 2)


def put_s(folder: Path, remote: str, env: Mapping[str, str]) -> float:
    """The whole command, until everything is on the disk."""
    return command_s(["volume", "put", "bench-state", str(folder), remote], env)[0]


def ls_s(entries: int, env: Mapping[str, str]) -> float:
    """The whole command, its output to a pipe."""
    seconds, out = command_s(["volume", "ls", "bench-state", "/many"], env)
    if out.count("\n") != entries + 1:
        raise Invalid(f"the listing has {out.count(chr(10))} lines")
    return seconds


def command_s(argv: Sequence[str], env: Mapping[str, str]) -> tuple[float, str]:
    begin = time.perf_counter()
    done = subprocess.run([str(Path(sys.executable).with_name("squall")), *argv], env=dict(env), capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise Invalid(f"squall {' '.join(argv[:2])} failed: {done.stderr.strip()}")
    return seconds, done.stdout


def open_s(calls: int, env: Mapping[str, str]) -> float:
    """From the command to a server that listens, over a store with so many calls that have ended."""
    folder = Path(tempfile.mkdtemp(prefix="squall-bench-"))
    own = {**env, "SQUALL_DATA_DIR": str(folder)}
    try:
        folder.chmod(0o711)
        (folder / "store").mkdir(mode=0o700)
        url = env.get("SQUALL_DATABASE_URL")
        place = url or folder / "store" / "squall.db"
        asyncio.run(fill_store(place, calls))
        if isinstance(place, Path):
            bring_to_disk(place)
        seconds, _ = command_s(["server", "start"], own)
        command_s(["server", "stop"], own)
        if url:
            empty(url)
    finally:
        shutil.rmtree(folder)
    return seconds


def bring_to_disk(file: Path) -> None:
    """Wait for it: a history of this length was not written a second before, and the server's first commit would wait for all of it."""
    with file.open("rb") as content:
        os.fsync(content.fileno())


async def fill_store(path: Path | str, calls: int) -> None:
    """Ended calls with a result of 100 bytes each."""
    store = SqlStore(path)
    await store.open()
    await store.close()
    if isinstance(path, str):
        on_postgres(path, FILL, calls)
        return
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.executemany(
            'INSERT INTO inputs (call, "index", function, data, created_at, method, parameters, parent, state, token, attempts, platform_retries, '
            "started_at, finished_at, status, output, expires_at) VALUES (?, 0, 'fu-1', x'80', 1.0, '', x'', '', 'succeeded', ?, 1, 0, 1.0, 2.0, 0, ?, 1e12)",
            ((f"fc-{number:032x}", number, bytes(100)) for number in range(calls)),
        )
        database.commit()


FILL = (
    """INSERT INTO inputs (call, "index", function, data, created_at, method, parameters, parent, state, token, attempts, platform_retries, started_at,
    finished_at, status, output, expires_at) SELECT 'fc-' || lpad(to_hex(n), 32, '0'), 0, 'fu-1', '\\x80', 1.0, '', '', '', 'succeeded', n, 1, 0, 1.0, 2.0, 0,
    decode(repeat('00', 100), 'hex'), 1e12 FROM generate_series(0, :calls - 1) AS n""",
    "ANALYZE inputs",
)


def empty(url: str) -> None:
    """Without the history again: the next measurement has the same database."""
    on_postgres(url, ("TRUNCATE inputs",), 0)


def on_postgres(url: str, statements: Sequence[str], calls: int) -> None:
    engine = make_engine(url)
    with engine.connect() as connection, connection.begin():
        for statement in statements:
            connection.execute(text(statement), {"calls": calls} if ":calls" in statement else {})
    engine.dispose()


def say(what: str) -> None:
    print(f"• {what}", file=sys.stderr, flush=True)
