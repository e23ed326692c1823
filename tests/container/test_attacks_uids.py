"""Attacks by way of user ids: of local users of the machine on containers, and of one app on others through what the kernel counts for each user."""

import asyncio
import ctypes
import errno
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from squall.runtime.contract import Bind, Network
from squall.runtime.host import inspect_host
from squall.runtime.ids import ALL, DEFAULT_IDS
from support.containers import World, opened
from support.drivers import Forking, make_driver, template_spec

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


#: Sends descriptors through sockets that nobody reads, until the kernel says that its user has too many on their way (unix(7), ETOOMANYREFS).
_IN_FLIGHT = """
import errno, os, resource, socket, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
null, kept, reached = os.open("/dev/null", os.O_RDONLY), [], False
for _ in range(300):
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pair[0].setblocking(False)
    kept.append(pair)
    try:
        for _ in range(8):
            socket.send_fds(pair[0], [b"x"], [null] * 253)
    except BlockingIOError:
        pass
    except OSError as error:
        reached = error.errno == errno.ETOOMANYREFS
        break
print("full" if reached else "room", flush=True)
time.sleep(1000)
"""


async def test_descriptors_on_their_way_hinder_no_start(world: World) -> None:
    """One container has as many on their way as the kernel lets it; others start all the same, in new networks and from new templates."""
    if world.driver.name == "gvisor":
        return  # its kernel passes them on by itself: nothing is on its way here
    attacker = await world.start(PYTHON, "-c", _IN_FLIGHT, rights=False)
    assert await attacker.line() == "full"
    try:
        for network in (Network.NONE, *[Network.NAT] * 6):
            output = await world.run(PYTHON, "-c", "print('up')", rights=False, network=network)
            assert output.stdout == "up\n", output.stderr
    finally:
        attacker.container.kill(signal.SIGKILL)
        await attacker.end()


@pytest.fixture
async def forking() -> AsyncIterator[World]:
    async with opened(Forking) as it:
        yield it


async def test_descriptors_on_their_way_hinder_no_template(forking: World) -> None:
    driver = forking.driver
    assert isinstance(driver, Forking)
    attacker = await forking.start(PYTHON, "-c", _IN_FLIGHT, rights=False)
    assert await attacker.line() == "full"
    try:
        image = await driver.image_template(forking.layers)
        function = await driver.template(template_spec("tp-function", forking.layers, argv=(), workdir="/root"), image)
        await function.remove()
    finally:
        attacker.container.kill(signal.SIGKILL)
        await attacker.end()


async def test_the_helper_is_killed_and_starts_go_on(forking: World) -> None:
    """New networks, a new template, and copies of the template that was there before."""
    driver = forking.driver
    assert isinstance(driver, Forking)
    assert (await forking.run(PYTHON, "-c", "print('up')", rights=False)).stdout == "up\n"
    house = driver._house
    assert house is not None
    namespace = os.readlink(f"/proc/{house.pid}/ns/user")
    for _ in range(3):
        before = house.pid
        os.kill(before, signal.SIGKILL)
        made = await asyncio.to_thread(house.network_namespace)
        os.close(made)
        assert house.pid != before
        assert os.readlink(f"/proc/{house.pid}/ns/user") == namespace
        assert house.pid in driver.groups.pids(driver.group(driver._house_group))
        running = [await forking.start(PYTHON, "-c", "print('up')", rights=False) for _ in range(6)]
        assert [(await each.end()).stdout for each in running] == ["up\n"] * 6
    os.kill(house.pid, signal.SIGKILL)
    template = await driver.template(template_spec("tp-other", forking.layers))
    await template.remove()


async def test_a_helper_that_does_not_answer_is_replaced(forking: World) -> None:
    driver = forking.driver
    assert isinstance(driver, Forking)
    house = driver._house
    assert house is not None
    before = house.pid
    house.control.settimeout(0.2)
    os.kill(before, signal.SIGSTOP)
    os.close(await asyncio.to_thread(house.network_namespace))
    assert house.pid != before


async def test_inotify_instances_of_a_container_leave_the_hosts_root_its_own(world: World) -> None:
    """The kernel lets each user have 128 by default, and counts those in a user namespace for its owner, too."""
    code = """
import ctypes, time
libc = ctypes.CDLL(None)
count = 0
while count < 2000 and libc.inotify_init1(0) >= 0:
    count += 1
print(count, flush=True)
time.sleep(1000)
"""
    most = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    attacker = await world.start(PYTHON, "-c", code, rights=False)
    count = int(await attacker.line())
    try:
        libc, got = ctypes.CDLL(None), []
        assert count == {"fork": min(most, 2000), "oci": most // 8, "gvisor": count}[world.driver.name]
        while len(got) < most // 4 and (fd := libc.inotify_init1(0)) >= 0:
            got.append(fd)
        for fd in got:
            os.close(fd)
        assert len(got) == most // 4
    finally:
        attacker.container.kill(signal.SIGKILL)
        await attacker.end()
