"""A PostgreSQL of our own: Debian's programs, a data directory in /tmp, a unix socket and no port."""

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
        self.folder = Path(tempfile.mkdtemp(prefix="squall-pg-"))
        # The server refuses to run as root.
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "-D", str(self.folder / "data"), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C")

    def _run(self, program: str, *argv: str) -> None:
        subprocess.run([*self._as, str(self._bin / program), *argv], check=True, capture_output=True, cwd="/")

    def start(self) -> None:
        """Returns when it takes connections."""
        options = f"-k {self.folder} -c listen_addresses='' -c max_connections=200"
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-w", "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def kill(self) -> None:
        """End it with SIGKILL, and wait until it and its children are gone."""
        pid = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        while _runs(pid):
            time.sleep(0.01)
        time.sleep(0.3)  # its children notice by themselves

    def remove(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder)

    def make(self, database: str) -> str:
        """The URL of a new, empty database."""
        self._run("createdb", "-h", str(self.folder), "-U", "postgres", database)
        return f"postgresql://postgres@/{database}?host={self.folder}"


def _runs(pid: int) -> bool:
    """Not gone, and no zombie: a test process that adopts orphans, as an agent does, does not wait for this one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
