"""A Celery task through Redis, as broker and as store of results; one worker process."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from celery import Celery

from benchmarks.contestants.serve import serve

address = os.environ.get("BENCH_REDIS", "")
app = Celery("bench", broker=f"redis+socket://{address}", backend=f"redis+socket://{address}")
app.conf.worker_prefetch_multiplier = 64
app.conf.broker_connection_retry_on_startup = True


@app.task(name="bench.square")  # type: ignore[untyped-decorator]
def square(number: int) -> int:
    return number * number


@app.task(name="bench.place")  # type: ignore[untyped-decorator]
def place() -> int:
    return os.getpid()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "redis.sock"))
        environment = {**os.environ, "BENCH_REDIS": path}
        redis = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder], stdout=subprocess.DEVNULL)
        while not Path(path).exists():
            time.sleep(0.01)
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "benchmarks.contestants.celery_task",
            "worker",
            "--pool",
            "prefork",
            "--concurrency",
            "1",
            "--loglevel",
            "ERROR",
        ]
        worker = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        app.conf.broker_url = app.conf.result_backend = f"redis+socket://{path}"
        try:
            serve(
                lambda number: square.delay(number).get(interval=0.0005),
                lambda n: [result.get(interval=0.0005) for result in [square.delay(number) for number in range(n)]],
                where=lambda: {"pid": place.delay().get(), "client": os.getpid()},
            )
        finally:
            for process in (worker, redis):
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
