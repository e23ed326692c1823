"""A driver that can do nothing beyond starting containers: the agent and the commands in containers ask it what it has, and take nothing for granted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import squall
from squall.model.errors import UnsupportedError
from squall.model.ids import ContainerId
from squall.runtime.contract import Capabilities, Container, Driver, Entry
from squall.worker.agent import Agent
from squall.worker.containers.exec_session import Command, order


class Nothing:
    """Has none of what a driver may lack. Its two files would be this one and `runtime/host.py`, which names the drivers."""

    name = "nothing"
    capabilities = Capabilities(isolation=False, images=False, limits=False, network=False, missing=("everything",))
    templating = None
    network = None
    written = None

    def entry(self, container: Container) -> Entry | None:
        return None

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def start(self, spec: Any) -> Container:
        raise UnsupportedError("nothing")

    async def admit(self, listen: Any) -> str | None:
        return None

    async def allow(self, networks: Any, services: Any) -> None: ...

    async def adopt(self, container: ContainerId) -> Container | None:
        return None

    async def sweep(self, keep: Any) -> list[ContainerId]:
        return []


def enter(told: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    given = {"argv": ["/bin/echo", "entered"], "env": {}, "workdir": "/", "tty": False}
    code = f"import sys; sys.path.append({str(Path(squall.__path__[0]).parent)!r}); from squall.runtime.enter import main; main()"
    return subprocess.run([sys.executable, "-I", "-S", "-c", code, json.dumps(told | given)], capture_output=True, text=True, timeout=60)


async def test_an_agent_works_with_it(tmp_path: Path) -> None:
    driver: Driver = Nothing()
    agent = Agent(driver=driver, run=tmp_path, owner=None, new_guest=lambda peer, container: pytest.fail("no container"), layer_path=Path, base_env={})
    await agent.open()
    assert agent.templates is None
    assert not agent._end_writer("ct-1", 1)
    await agent.close()


def test_no_command_gets_into_its_containers() -> None:
    container: Any = object()
    with pytest.raises(UnsupportedError, match="no command can be run in containers of the nothing driver"):
        order(Nothing(), container, Command(["true"], {}, "/"))


@pytest.mark.parametrize("told", [{}, {"pid": 0, "procs": []}, {"isolated": True, "pid": 0, "procs": []}])
def test_nobody_enters_this_machine_for_want_of_a_container(told: dict[str, Any]) -> None:
    done = enter(told)
    assert done.returncode != 0
    assert "entered" not in done.stdout


def test_the_host_is_entered_only_where_a_driver_says_so() -> None:
    assert enter({"isolated": False}).stdout == "entered\n"
