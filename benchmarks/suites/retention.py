"""A long history is brought within its retention: how fast, and what calls notice of it. SQLite; the server's own settings."""

import sqlite3
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import closing

from benchmarks.process import Contestant
from benchmarks.report import Invalid, Metric, Report
from benchmarks.server import STATE, environment, first_call_s, forget_calls, stop_server
from benchmarks.suites.calls import validate

METRICS = {
    "rows": Metric("rows", lower=False),
    "removed_rows_per_s": Metric("1/s", lower=False),
    "warm_call_p50_usual_ms": Metric("ms"),
    "warm_call_p50_while_sweeping_ms": Metric("ms"),
    "warm_call_p99_usual_ms": Metric("ms"),
    "warm_call_p99_while_sweeping_ms": Metric("ms"),
    "warm_call_p99_ratio": Metric("×", 2.0),
    "database_before_mib": Metric("MiB"),
    "database_after_mib": Metric("MiB"),
}
FULL, QUICK = 10_000_000, 1_000_000
DAY_S = 86_400.0
BATCH = 500
#: Of ten rows so many are beyond their time with all that they hold; of the others only the result is.
GONE = 9
#: A sweep that gets nowhere.
SWEEP_MAX_S = 3_600.0


def run(_: Sequence[str], quick: bool) -> Report:
    """Measure. Raises Invalid when nothing was swept while calls were timed."""
    rows, report, env = QUICK if quick else FULL, Report(METRICS), environment()
    if "SQUALL_DATABASE_URL" in env:
        raise Invalid("this suite fills a SQLite file")
    database = STATE / "store" / "squall.db"
    try:
        forget_calls()
        first_call_s(env)
        stop_server()
        say(f"{rows:,} rows")
        fill(rows)
        report.add("rows", rows)
        report.add("database_before_mib", database.stat().st_size / (1 << 20))
        with Contestant("squall", "squall_function", env=env) as squall:
            validate(squall)
            squall.ask("calls", BATCH)
            wait_begun()
            say("calls while rows are removed")
            began = time.monotonic()
            while_sweeping: list[float] = []
            while due := left():
                if time.monotonic() - began > SWEEP_MAX_S:
                    raise Invalid(f"after {SWEEP_MAX_S:.0f} s there is still something to remove")
                batch = squall.ask("calls", BATCH)["times"]
                while_sweeping += batch if due == left() else []
            report.add("removed_rows_per_s", rows / (time.monotonic() - began))
            say("as many calls with nothing to remove")
            usual = [seconds for _ in range(max(1, len(while_sweeping) // BATCH)) for seconds in squall.ask("calls", BATCH)["times"]]
        if len(while_sweeping) < 2 * BATCH:
            raise Invalid(f"only {len(while_sweeping)} calls fell into the sweep")
        for name, times in (("usual", usual), ("while_sweeping", while_sweeping)):
            report.add(f"warm_call_p50_{name}_ms", statistics.median(times) * 1e3)
            report.add(f"warm_call_p99_{name}_ms", p99(times) * 1e3)
        report.add("warm_call_p99_ratio", p99(while_sweeping) / p99(usual))
        stop_server()
        report.add("database_after_mib", database.stat().st_size / (1 << 20))
    finally:
        stop_server()
        forget_calls()
    return report


def fill(rows: int) -> None:
    """Ended inputs with results of 100 bytes, as many calls: written at once, with the database's own schema."""
    now = time.time()
    with closing(connect()) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN")
        database.execute(
            """
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
            INSERT INTO inputs (call, "index", function, data, created_at, method, parameters, parent, state, token, attempts, platform_retries,
                                started_at, finished_at, status, output, expires_at)
            SELECT printf('fc-%032x', i), 0, 'fu-00000000000000000000000000000000', x'', :now, '', x'', '', 'succeeded', i, 1, 0, :now, :now, 0,
                   randomblob(100), :now - CASE WHEN i <= :gone THEN 40 ELSE 1 END * 86400.0 + i * 1e-3 FROM n
            """,
            {"rows": rows, "now": now, "gone": rows * GONE // 10},
        )
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def connect() -> sqlite3.Connection:
    return sqlite3.connect(STATE / "store" / "squall.db", isolation_level=None, timeout=30)


def left() -> str:
    """Which piece of the sweep is still to come; empty: none."""
    with closing(connect()) as database:
        query = "SELECT 1 FROM inputs WHERE expires_at IS NOT NULL AND state NOT IN ('queued', 'running', 'expired') AND expires_at <= ? LIMIT 1"
        now = time.time()
        return next((name for name, before in (("rows", now - 23 * DAY_S), ("results", now)) if database.execute(query, (before,)).fetchone()), "")


def wait_begun() -> None:
    deadline = time.monotonic() + 60
    with closing(connect()) as database:
        while database.execute("SELECT min(sequence) FROM inputs").fetchone()[0] == 1:
            if time.monotonic() > deadline:
                raise Invalid("the server removes nothing")
            time.sleep(0.05)


def p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100)[98]


def say(text: str) -> None:
    print(f"• {text}", file=sys.stderr, flush=True)
