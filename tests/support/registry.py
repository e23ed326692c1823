"""A real registry on loopback, Debian's docker-registry, with or without a password."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from support.waiting import BOUND_S

USER, PASSWORD = "user", "secret-9f2c"
#: What `htpasswd -Bbn` makes of them: docker-registry takes bcrypt only.
HTPASSWD = "user:$2b$04$HpNLXr95.lQpSk4zyIxa.eMlMvKn1AJPdGq0RCHR4G3Xzr9ATiV/a\n"


@dataclass(frozen=True)
class Registry:
    host: str
    pushed: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return self.host


@contextlib.contextmanager
def registry(*, htpasswd: str | None = None) -> Iterator[Registry]:
    """Running until the end of the block; what was pushed goes with it."""
    program = shutil.which("docker-registry") or "/usr/bin/docker-registry"
    if not Path(program).exists():
        pytest.skip("needs docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="squall-registry-"))
    lines = [
        "version: 0.1", "log: {level: error, accesslog: {disabled: true}}", "storage:", f"  filesystem: {{rootdirectory: {folder}/data}}",
        "  delete: {enabled: true}", f"http: {{addr: '127.0.0.1:{port}'}}",
    ]  # fmt: skip
    if htpasswd is not None:
        (folder / "htpasswd").write_text(htpasswd)
        lines.append(f"auth: {{htpasswd: {{realm: squall, path: {folder}/htpasswd}}}}")
    (folder / "config.yml").write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_up(f"http://127.0.0.1:{port}/v2/", process)
        yield Registry(f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def _wait_up(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + BOUND_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError as error:
            with error:
                return  # it asks for a password
        except OSError:
            assert process.poll() is None, "docker-registry ended"
            assert time.monotonic() < deadline, "docker-registry does not answer"
            time.sleep(0.02)
