"""A PostgreSQL of our own: Debian's programs, a data directory in /tmp, a unix socket and no port."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path


def programs() -> Path | None:
    """Where the newest installed server's programs are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Postgres:
    """Started by `start`, ended by `stop`; `kill` is a crash, after which it can be started again."""

    def __init__(self) -> None:
        bin_ = programs()
        assert bin_ is not None, "apt install postgresql"
        self._bin = bin_
        # In memory: a database is a thousand files, and each test has its own.
        self.folder = Path(tempfile.mkdtemp(prefix="squall-pg-", dir="/dev/shm" if shutil.disk_usage("/dev/shm").free > 2 << 30 else None))
        self._process: subprocess.Popen[bytes] | None = None
        # The server refuses to run as root.
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "-D", str(self.folder / "data"), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C")

    def _run(self, program: str, *argv: str) -> None:
        subprocess.run([*self._as, str(self._bin / program), *argv], check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        """Returns when it takes connections. It is a child of this process, which buries it: some machines' init takes its time, and a new server, or
        one who waits for the end of this, takes a zombie for alive.
        """
        options = ("-k", str(self.folder), "-c", "listen_addresses=", "-c", "max_connections=200")
        become = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"] if self._as else []
        with (self.folder / "log").open("ab") as log:
            argv = [*become, str(self._bin / "postgres"), "-D", str(self.folder / "data"), *options]
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        while subprocess.run([str(self._bin / "pg_isready"), "-q", "-h", str(self.folder)]).returncode:
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.02)

    def stop(self) -> None:
        """End it at once, as its manual calls "immediate"."""
        self._end(signal.SIGQUIT)

    def kill(self) -> None:
        """End it with SIGKILL, and wait until it and its children are gone."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait()
        self._process = None
        while self._children():  # these notice by themselves
            time.sleep(0.01)

    def _children(self) -> bool:
        """Whether a process works in the data directory."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cwd").readlink() == self.folder / "data":
                    return True
        return False

    def remove(self) -> None:
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.folder)

    def make(self, database: str) -> str:
        """The URL of a new, empty database."""
        self._run("createdb", "-h", str(self.folder), "-U", "postgres", database)
        return f"postgresql://postgres@/{database}?host={self.folder}"
