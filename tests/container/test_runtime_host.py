"""What is found out about a host, as root and without privilege, and the driver that follows from it."""

import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from squall.model.errors import InvalidError
from squall.model.ids import ContainerId
from squall.runtime import cgroups, filters, host
from squall.runtime.contract import ContainerSpec
from squall.runtime.gvisor_driver import GvisorDriver
from squall.runtime.host import choose_driver, inspect_host
from squall.runtime.oci import OciDriver
from support.containers import drop, free_folder, traces

as_root = pytest.mark.skipif((os.geteuid() != 0 or sys.platform != "linux") and not os.environ.get("CI"), reason="needs root on Linux")


def test_every_finding_says_something(tmp_path: Path) -> None:
    report = inspect_host(tmp_path / "not" / "yet")
    assert report.driver in ("fork", "oci", "process")
    assert report.reason
    assert len({finding.name for finding in report.findings}) == len(report.findings)
    assert all(finding.found for finding in report.findings)
    assert all(finding.advice for finding in report.findings if not finding.ok)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@as_root
async def test_fork_is_chosen_where_everything_is_there(tmp_path: Path) -> None:
    driver, report = await choose_driver(run=tmp_path / "run", data=tmp_path / "data", instance="x")
    assert (driver.name, report.driver) == ("fork", "fork")


@pytest.mark.root
@as_root
async def test_oci_is_chosen_where_only_templates_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "library", lambda: None)
    filters.container_filter.cache_clear()
    driver, report = await choose_driver(run=tmp_path / "run", data=tmp_path / "data", instance="x")
    assert (driver.name, report.driver) == ("oci", "oci")
    assert "libseccomp" in report.reason
    with pytest.raises(InvalidError, match="fork driver does not work here"):
        await choose_driver(run=tmp_path / "run", data=tmp_path / "data", instance="x", driver="fork")
    driver, _ = await choose_driver(run=tmp_path / "run", data=tmp_path / "data", instance="x", driver="process")
    assert driver.name == "process"
    with pytest.raises(InvalidError, match="docker"):
        await choose_driver(run=tmp_path / "run", data=tmp_path / "data", instance="x", driver="docker")


@pytest.mark.root
@as_root
async def test_a_missing_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "find_runtime", lambda _: None)
    driver, report = await choose_driver(run=tmp_path / "run", data=tmp_path / "data", instance="x")
    assert driver.name == "process"
    assert "neither runc nor crun" in report.reason
    assert [finding.advice for finding in report.findings if finding.name == "runtime"] == ["apt install runc"]
    with pytest.raises(InvalidError, match="neither runc nor crun"):
        await choose_driver(run=tmp_path / "run", data=tmp_path / "data", instance="x", driver="oci")


@pytest.mark.root
@as_root
async def test_a_missing_gvisor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a driver that has it as its default when it opens, and by any other when a function asks for it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    options: dict[str, Any] = {"run": tmp_path / "run", "data": tmp_path / "data", "instance": "x"}
    with pytest.raises(InvalidError, match="apt install runsc"):
        await GvisorDriver(**options).open()
    spec = ContainerSpec(id=ContainerId("ct-1"), layers=(tmp_path,), argv=("/bin/true",), env={}, stdout=1, stderr=2, gvisor=True)
    driver = OciDriver(**options)
    assert not driver.capabilities.gvisor
    with pytest.raises(InvalidError, match="apt install runsc"):
        await driver.start(spec)


#: What makes this machine a lesser one, in a mount namespace (the first: a user namespace) of its own; $0 is a directory. And what is then said.
LESSER = {
    "no user namespaces": ("echo 0 > /proc/sys/user/max_user_namespaces", "user namespaces: unshare"),
    "no overlayfs": ("mkdir l u w m && mount -t overlay x -o lowerdir=l,upperdir=u,workdir=w m && cd m", "overlayfs: not on"),
    "cgroup 2 without controllers": ("umount -R /sys/fs/cgroup && mount -t cgroup2 x /sys/fs/cgroup", "cgroups: no controllers"),
    "no cgroups": ("umount -R /sys/fs/cgroup", "cgroups: no controllers"),
    "no nftables": ("mount --bind /dev/null $(command -v nft)", "nftables: no nft"),
    "no runtime": ("mount --bind /dev/null $(command -v runc)", "runtime: neither runc nor crun"),
}
LOOK = """
import asyncio
from pathlib import Path
from squall.model.errors import InvalidError
from squall.runtime.host import choose_driver
here = Path.cwd()
driver, report = asyncio.run(choose_driver(run=here / "run", data=here, instance="x"))
print(driver.name, report.reason)
for wanted in ("fork", "oci", "gvisor"):
    try:
        asyncio.run(choose_driver(run=here / "run", data=here, instance="x", driver=wanted))
    except InvalidError as error:
        print(error)
"""


@pytest.mark.root
@as_root
@pytest.mark.parametrize("name", LESSER)
def test_what_a_lesser_machine_lacks_is_named(tmp_path: Path, name: str) -> None:
    """By real means, and the driver that is left is chosen; the others are refused with the same reason."""
    spoil, says = LESSER[name]
    flags = ["--mount", "--propagation", "private", *(["--user", "--map-root-user"] if name == "no user namespaces" else [])]
    env = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    command = ["unshare", *flags, "sh", "-c", f'{spoil} && exec "$0" -c "$1"', sys.executable, LOOK]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    chosen, *refused = done.stdout.splitlines()
    assert chosen.startswith("process ") and says in chosen
    assert len(refused) == 3 and all("driver does not work here" in line and says in line for line in refused)


PLAIN_USER = """
import asyncio, os, sys
from pathlib import Path
from squall.model.errors import InvalidError
from squall.model.ids import ContainerId
from squall.model.resources import Resources
from squall.runtime.contract import ContainerSpec, Network
from squall.runtime.host import choose_driver

async def main(folder, instance):
    assert os.geteuid() == 1234
    driver, report = await choose_driver(run=folder / "run", data=folder / "data", instance=instance)
    assert driver.name == "process" and "not root" in report.reason, report
    await driver.open()
    def spec(name, code, **fields):
        return ContainerSpec(id=name, layers=(), argv=(sys.executable, "-c", code), env={}, stdout=1, stderr=2, **fields)
    container = await driver.start(spec("a", "print('hello')"))
    print((await container.wait()).exit_code, flush=True)
    await container.remove()
    container = await driver.start(spec("b", "b = bytearray(300 << 20)", resources=Resources(memory_limit_mib=100)))
    print((await container.wait()).exit_code, flush=True)
    await container.remove()
    container = await driver.start(spec("c", "import time; time.sleep(1000)"))
    container.kill(9)
    print((await container.wait()).signal, flush=True)
    await container.remove()
    try:
        await driver.start(spec("d", "", network=Network.NONE))
    except InvalidError as e:
        print(e)
    await driver.close()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.root
@as_root
def test_a_plain_user_gets_the_process_driver() -> None:
    """A user namespace without a mapped root: the program has another user id and no right at all."""
    folder, instance = free_folder(), f"p{secrets.token_hex(3)}"
    try:
        command = ["unshare", "--user", "--map-user=1234", sys.executable, "-c", PLAIN_USER, str(folder), instance]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[:4] == ["hello", "0", "1", "9"]
        assert "network" in lines[4]
        assert "MemoryError" in done.stderr
        assert traces(instance, folder / "run", folder / "data") == []
    finally:
        drop(folder)


class TestCgroups:
    V1 = (
        "30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
        "31 20 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
        "32 20 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
        "33 20 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n"
        "34 20 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
    )

    def test_hybrid_is_version_1(self) -> None:
        found = cgroups.detect(self.V1)
        assert found is not None
        assert found.version == "v1"
        assert len(found.trees) == 5
        assert found.view("a/b") == [
            (Path("/sys/fs/cgroup/cpu,cpuacct/a/b"), "/sys/fs/cgroup/cpu"),
            (Path("/sys/fs/cgroup/cpu,cpuacct/a/b"), "/sys/fs/cgroup/cpuacct"),
            (Path("/sys/fs/cgroup/memory/a/b"), "/sys/fs/cgroup/memory"),
            (Path("/sys/fs/cgroup/pids/a/b"), "/sys/fs/cgroup/pids"),
        ]

    def test_version_2_where_it_has_the_controllers(self, tmp_path: Path) -> None:
        line = f"34 20 0:30 / {tmp_path} rw,relatime - cgroup2 cgroup2 rw\n"
        (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
        found = cgroups.detect(line)
        assert found is not None
        assert found.version == "v2"
        (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
        assert cgroups.detect(line) is None
        assert cgroups.detect("") is None

    def test_version_2_files(self, tmp_path: Path) -> None:
        """On a directory that stands for the file system: this shows which files get which values, not that a kernel obeys."""
        groups = cgroups.CgroupsV2(tmp_path)
        groups.create("squall-x/ct", cgroups.Limits(cpu_shares=1024, cpu_quota_us=50_000, memory_bytes=64 << 20, pids=100))
        folder = tmp_path / "squall-x" / "ct"
        assert (tmp_path / "cgroup.subtree_control").read_text() == (tmp_path / "squall-x/cgroup.subtree_control").read_text() == "+cpu +memory +pids"
        written = {file.name: file.read_text() for file in folder.iterdir()}
        assert written == {
            "cpu.weight": "39",
            "cpu.max": "50000 100000",
            "memory.max": str(64 << 20),
            "memory.swap.max": "0",
            "memory.oom.group": "1",
            "pids.max": "100",
        }
        groups.create("squall-x/ct", cgroups.Limits(cpu_shares=2, cpu_quota_us=None, memory_bytes=None, pids=None))
        assert [(folder / name).read_text() for name in ("cpu.weight", "cpu.max", "memory.max", "pids.max")] == ["1", "max 100000", "max", "max"]
        (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
        (folder / "memory.current").write_text("4096\n")
        (folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
        assert groups.stats("squall-x/ct") == cgroups.Stats(1.5, 4096, None, 1)
        (folder / "memory.peak").write_text("8192\n")
        assert groups.stats("squall-x/ct") == cgroups.Stats(1.5, 4096, 8192, 1)
        assert groups.stats("squall-x/none") is None
        assert groups.children("squall-x") == {"ct"}

    @pytest.mark.root
    @as_root
    def test_on_this_machine(self) -> None:
        groups = cgroups.detect()
        assert groups is not None
        parent = f"squall-g{secrets.token_hex(3)}"
        limits = cgroups.Limits(cpu_shares=100, cpu_quota_us=50_000, memory_bytes=64 << 20, pids=10)
        groups.create(f"{parent}/a", limits)
        groups.create(f"{parent}/a", limits)
        with subprocess.Popen(["sleep", "1000"]) as sleeper:
            groups.add(f"{parent}/a", sleeper.pid)
            assert groups.pids(f"{parent}/a") == [sleeper.pid]
            assert groups.children(parent) == {"a"}
            assert not groups.remove(f"{parent}/a")
            stats = groups.stats(f"{parent}/a")
            assert stats is not None
            assert stats.oom_kills == 0
            groups.kill(f"{parent}/a")
            assert sleeper.wait(10) == -9
        assert groups.remove(f"{parent}/a")
        assert groups.remove(f"{parent}/a")
        assert groups.remove(parent)
