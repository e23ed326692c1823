"""Contestants as processes: started, asked, ended; and the environments that peers need."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.machine import ROOT
from benchmarks.report import Invalid

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "squall-bench"


@dataclass(frozen=True, slots=True)
class Peer:
    """`requirements` go into an environment of its own; `commands` come from the system (command -> Debian package)."""

    module: str
    requirements: tuple[str, ...] = ()
    commands: Mapping[str, str] | None = None


PEERS = {
    "processpool": Peer("processpool"),
    "ray": Peer("ray_actor", ("ray>=2.40",)),
    "celery": Peer("celery_task", ("celery>=5.4", "redis>=5", "packaging"), {"redis-server": "redis-server"}),
    # These serve HTTP: `benchmarks.suites.web` starts them as programs, with a port.
    "litserve": Peer("serve_litserve", ("litserve>=0.2",)),
    "rayserve": Peer("serve_ray", ("ray[serve]>=2.40",)),
}


def ensure_peer(name: str) -> Path:
    """The interpreter that runs this peer; its environment is made at first use and kept.

    Raises:
        Invalid: there is no such peer, or what it needs can't be installed.
    """
    if name not in PEERS:
        raise Invalid(f"no peer {name!r}; there are {', '.join(PEERS)}")
    peer = PEERS[name]
    missing = [package for command, package in (peer.commands or {}).items() if shutil.which(command) is None]
    if missing:
        print(f"• installing with apt: {' '.join(missing)}", file=sys.stderr)
        done = subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode != 0:
            raise Invalid(f"{name} needs {' '.join(missing)}, and apt could not install it")
    if not peer.requirements:
        return Path(sys.executable)
    key = hashlib.sha256(repr((peer.requirements, sys.version_info[:2])).encode()).hexdigest()[:12]
    folder = CACHE / "peers" / f"{name}-{key}"
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        print(f"• installing {name} into {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            subprocess.run([str(python), "-m", "pip", "-qq", "install", *peer.requirements], check=True)
        except subprocess.CalledProcessError as error:
            raise Invalid(f"{name} can't be installed: {error}") from error
        (folder / ".complete").touch()
    return python


class Contestant:
    """A running contestant. `ask` sends one request and waits; leaving the context ends it, and it cleans up."""

    def __init__(self, name: str, module: str, *, python: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        command = [str(python or sys.executable), "-m", f"benchmarks.contestants.{module}"]
        environment = {**(env if env is not None else os.environ), "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)

    def __enter__(self) -> Self:
        try:
            self._answer()
        except BaseException:
            self._process.kill()
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with self._process:  # Closes its stdin, which is how it learns of the end, and waits.
            pass

    def ask(self, do: str, n: int = 0) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "n": n}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Invalid(f"{self.name} ended, with exit status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
