"""Attacks by way of user ids: of local users of the machine on containers, and of one app on others through what the kernel counts for each user."""

import errno
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from squall.runtime.contract import Bind
from squall.runtime.host import inspect_host
from squall.runtime.ids import ALL, DEFAULT_IDS
from support.containers import World, opened
from support.drivers import make_driver

_BEST = inspect_host().driver
pytestmark = [pytest.mark.root, pytest.mark.skipif(_BEST == "process" and not os.environ.get("CI"), reason="this host can't run containers")]
PYTHON = "/usr/bin/python3"
#: Whom Debian's first `useradd` gives subordinate ids from 100,000 on: root in a user namespace of that user is one of these outside.
FIRST_SUBORDINATE = 100_000


@pytest.fixture(params=["fork", "oci", "gvisor"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fork" and _BEST != "fork" and not os.environ.get("CI"):
        pytest.skip("this host can't copy templates")
    async with opened(lambda run, data, instance: make_driver(request.param, run, data, instance)) as it:
        yield it


def as_user(number: int, work: Callable[[], object]) -> int:
    """Do it in a process of this user and group, with no rights. Returns the error's number, 0 if it was done."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            os.setgroups([])
            os.setresgid(number, number, number)
            os.setresuid(number, number, number)
            work()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def test_a_local_user_with_the_first_subordinate_range_reaches_nothing(world: World, tmp_path: Path) -> None:
    """Files of a volume, of a layer and of the container's root, and its processes; the directories on the way are open, as on a careless machine."""
    folder = world.run_folder.parent / "volume"
    folder.mkdir()
    os.chown(folder, DEFAULT_IDS.first, DEFAULT_IDS.first)
    code = "import os, time; os.umask(0o077); open('/volume/secret', 'w').write('x'); open('/root/secret', 'w').write('x'); print('up'); time.sleep(1000)"
    victim = await world.start(PYTHON, "-u", "-c", code, rights=False, binds=(Bind(folder, "/volume", read_only=False),))
    assert await victim.line() == "up"
    containers = world.data_folder / "containers"
    for way in (world.data_folder, containers, *containers.iterdir(), *world.data_folder.rglob("upper/root")):
        way.chmod(0o755)
    (written,) = world.data_folder.rglob("upper/root/secret")
    pids = world.driver.groups.pids(world.driver.group(victim.container.id))  # type: ignore[attr-defined]
    assert victim.container.pid in pids
    for user in (FIRST_SUBORDINATE, FIRST_SUBORDINATE + 1000):
        for secret in (folder / "secret", written, world.layers[0] / "etc/shadow"):
            assert as_user(user, lambda secret=secret: secret.read_bytes()) == errno.EACCES, secret  # type: ignore[misc]
        for pid in pids:
            assert as_user(user, lambda pid=pid: os.kill(pid, signal.SIGKILL)) == errno.EPERM  # type: ignore[misc]
            assert as_user(user, lambda pid=pid: os.listdir(f"/proc/{pid}/fd")) == errno.EACCES  # type: ignore[misc]
    victim.container.kill(signal.SIGKILL)
    await victim.end()


async def test_every_id_of_a_container_is_one_that_nobody_can_have(world: World) -> None:
    victim = await world.start(PYTHON, "-u", "-c", "import time; open('/root/x', 'w'); print('up'); time.sleep(1000)", rights=False)
    assert await victim.line() == "up"
    for pid in world.driver.groups.pids(world.driver.group(victim.container.id)):  # type: ignore[attr-defined]
        fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        ids = {int(number) for name in ("Uid", "Gid", "Groups") for number in fields[name].split()}
        assert all(number in ALL for number in ids - {65_534}), fields
    (written,) = world.data_folder.rglob("upper/root/x")
    assert written.stat().st_uid in ALL
    assert written.stat().st_gid in ALL
    victim.container.kill(signal.SIGKILL)
    await victim.end()
