"""How the `oci` driver has an OCI runtime started: runc or crun, and what any of them says when it fails."""

import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from squall.model.errors import ContainerStartError, ResourceExhaustedError
from squall.runtime.contract import ContainerSpec
from squall.runtime.files import find_program

_START_S_MAX = 60.0  # a runtime that takes longer hangs; runc needs about 0.02 s, runsc 0.2 s
_FULL = ("no space left", "cannot allocate memory", "resource temporarily unavailable")


def find_runtime(cgroup_version: str) -> str | None:
    """Path of crun where it works (it refuses version 1 hierarchies beside version 2) and is there, else of runc."""
    return (find_program("crun") if cgroup_version == "v2" else None) or find_program("runc")


@dataclass(frozen=True, slots=True)
class Runc:
    """Starts containers. `state`: directory where the runtime remembers its own."""

    program: str
    state: Path

    def start(self, spec: ContainerSpec, folder: Path) -> int:
        """Start the bundle in `folder`, in a thread. Returns the host pid of the container's first process. Raises as `run`."""
        options = ("--root", str(self.state), "--log", str(folder / "log"), "--log-format", "json")
        run(spec, folder / "log", (self.program, *options, "run", "--detach", "--bundle", str(folder), "--pid-file", str(folder / "pid"), spec.id))
        return int((folder / "pid").read_text())


def run(spec: ContainerSpec, log: Path, command: Sequence[str]) -> None:
    """Run a command of a runtime to its end. The container inherits the streams of `spec`, and nothing else that is open here.

    Raises:
        ContainerStartError, ResourceExhaustedError: it failed, with what it wrote into `log`, or hung.
    """
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=spec.stdout, stderr=spec.stderr) as runtime:
        try:
            code = runtime.wait(_START_S_MAX)
        except subprocess.TimeoutExpired as e:
            runtime.kill()
            raise ContainerStartError(f"container {spec.id}: {command[0]} did not start it within {_START_S_MAX:.0f} s") from e
    if code:
        cause = _last_error(log)
        full = any(words in cause for words in _FULL)
        raise (ResourceExhaustedError if full else ContainerStartError)(f"container {spec.id} could not be started: {cause}")


def _last_error(log: Path) -> str:
    """runc writes an object a line, runsc one after another."""
    causes: list[str] = []
    with suppress(OSError):
        text, decoder = log.read_text().lstrip(), json.JSONDecoder()
        with suppress(ValueError):
            while text:
                entry, end = decoder.raw_decode(text)
                if "msg" in entry:
                    causes.append(str(entry["msg"]))
                text = text[end:].lstrip()
    return causes[-1] if causes else "the container runtime failed and gave no reason"
