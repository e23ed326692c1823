"""A container's side at its agent: what the runner says is passed on in an order that the pool can act on."""

import asyncio
import os
from pathlib import Path
from typing import Any, cast

from squall import __version__
from squall.model.ids import ContainerId
from squall.runtime.contract import Container
from squall.wire.agent import Report, Told
from squall.wire.framing import pack
from squall.wire.messages import PROTOCOL_VERSION, Boot, Hello, Print, Ready
from squall.wire.stream import Turn
from squall.worker.containers.managed_container import Hosted


class Reports:
    """What the agent would pass on to its server; a print tells that all before it has been handled."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.heard_print = asyncio.Event()

    def __call__(self, report: Report) -> None:
        self.kinds.append(type(report.message).__name__ if isinstance(report, Told) else type(report).__name__)
        if self.kinds[-1] == "Print":
            self.heard_print.set()


class Process:
    """A container as far as an agent that never ends it looks."""

    pid = os.getpid()
    network_s = 0.0

    async def remove(self) -> None:
        pass


async def ready_before_the_pid_is_known(folder: Path) -> list[str]:
    boot = Boot(*("ct-1", "ap-1", "app", "fu-1", b"", {}, {}, b"", (), "im-1", ""))  # type: ignore[arg-type]
    reports = Reports()
    hosted = Hosted(ContainerId("ct-1"), boot, reports, folder / "io", Turn(asyncio.get_running_loop()), cast(Any, None))
    hosted.listen(None)
    reader, writer = await asyncio.open_unix_connection(str(hosted.socket_path))
    writer.write(pack(Hello(PROTOCOL_VERSION, "runner", "ct-1", __version__)) + pack(Ready(0.5, 0.0)) + pack(Print(0, 1, b"x")))
    await reports.heard_print.wait()
    before = list(reports.kinds)
    hosted.run(cast(Container, Process()))
    writer.close()
    await hosted.discard()
    return [*before, "|", *reports.kinds]


def test_a_container_is_ready_only_when_its_process_is_known(tmp_path: Path) -> None:
    """Whoever hears of it may want to signal it, or read its pid, at once."""
    assert asyncio.run(ready_before_the_pid_is_known(tmp_path)) == ["Print", "|", "Print", "Started", "BecameReady"]
