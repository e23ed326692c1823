"""What only the `oci` driver gives: isolation, limits, layers, and a clean machine whenever the agent is killed."""

import asyncio
import errno
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from squall.model.errors import ContainerStartError, InvalidError, ResourceExhaustedError
from squall.model.ids import ContainerId
from squall.model.resources import Resources
from squall.runtime import kernel, mounts, points
from squall.runtime.contract import Bind, Network
from squall.runtime.host import inspect_host
from squall.runtime.ids import DEFAULT_IDS
from squall.runtime.oci import OciDriver
from squall.runtime.runc import Runc
from support.containers import World, drop, free_folder, opened, rootfs, traces
from support.waiting import wait_until_async

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(inspect_host().driver not in ("fork", "oci") and not os.environ.get("CI"), reason="this host can't run containers"),
]
PYTHON = "/usr/bin/python3"
MIB = 1 << 20


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with opened(lambda run, data, instance: OciDriver(run=run, data=data, instance=instance, ready_networks=2)) as it:
        yield it


def mapped(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    os.chown(folder, DEFAULT_IDS.first, DEFAULT_IDS.first)
    return folder


# --- isolation -------------------------------------------------------------------------------------------------------------------


async def test_root_inside_is_nobody_outside(world: World) -> None:
    running = await world.start_python("import os, signal; print(os.getuid(), os.getgid()); signal.pause()")
    assert await running.line() == "0 0"
    status = Path(f"/proc/{running.container.pid}/status").read_text()
    assert f"Uid:\t{DEFAULT_IDS.first}\t" in status
    assert f"Gid:\t{DEFAULT_IDS.first}\t" in status


async def test_hostname_and_pids_are_its_own(world: World) -> None:
    other = await world.start("sleep", "1000")
    output = await world.run_python(
        "import os, socket; print(socket.gethostname(), socket.gethostbyname(socket.gethostname()), sorted(n for n in os.listdir('/proc') if n.isdecimal()))",
        hostname="crab",
    )
    assert output.stdout == "crab 127.0.0.1 ['1']\n"
    assert other.container.usage() is not None


async def test_rights_are_few(world: World) -> None:
    output = await world.run("grep", "-E", "^(CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):", "/proc/self/status")
    assert [line.split()[1] for line in output.stdout.splitlines()] == ["00000000800405fb", "00000000800405fb", "0000000000000000", "1", "2"]


@pytest.mark.parametrize(
    "code",
    [
        "libc.mount(b'none', b'/mnt', b'tmpfs', 0, None)",
        "libc.unshare(0x10000000)",  # a user namespace, where it would have every right again
        "libc.setns(os.open('/proc/self/ns/net', 0), 0)",
        "libc.syscall(321, 0, 0, 0)",  # bpf
        "libc.syscall(425, 1, 0)",  # io_uring_setup
        "libc.reboot(0x89abcdef)",
        "libc.socket(40, 1, 0)",  # vsock
    ],
)
async def test_what_the_filter_refuses(world: World, code: str) -> None:
    output = await world.run_python(f"import ctypes, os, errno\nlibc = ctypes.CDLL(None, use_errno=True)\nprint({code}, ctypes.get_errno() == errno.EPERM)")
    assert output.stdout == "-1 True\n", output.stderr


async def test_threads_and_children_pass_the_filter(world: World) -> None:
    code = (
        "import threading, subprocess\nt = threading.Thread(target=lambda: print('thread', flush=True)); t.start(); t.join()\nsubprocess.run(['echo', 'child'])"
    )
    assert (await world.run_python(code)).stdout == "thread\nchild\n"


@pytest.mark.parametrize("path", ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/new"])
async def test_what_is_read_only(world: World, path: str) -> None:
    output = await world.run_python(f"open({path!r}, 'w').write('1')")
    assert output.exit.exit_code == 1
    assert any(word in output.stderr for word in ("Read-only", "Permission denied", "No such file")), output.stderr


async def test_nothing_of_the_host_is_in_sys_and_dev(world: World) -> None:
    output = await world.run_python("import os; print(sorted(os.listdir('/sys')), sorted(os.listdir('/dev')), len(open('/proc/keys').read()))")
    known = ["fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"]
    assert output.stdout == f"['devices', 'fs'] {known} 0\n"


async def test_dev_shm_tmp_and_multiprocessing_work(world: World) -> None:
    code = (
        "import tempfile, multiprocessing, multiprocessing.shared_memory as m\nm.SharedMemory(create=True, size=1<<20).unlink()\n"
        "tempfile.TemporaryFile()\nprint(multiprocessing.get_context('fork').Pool(2).map(abs, [-1, -2]))"
    )
    output = await world.run_python(code)
    assert output.stdout == "[1, 2]\n", output.stderr


async def test_it_can_see_its_own_limits(world: World) -> None:
    if world.driver.groups.version != "v1":  # type: ignore[attr-defined]
        pytest.skip("paths of version 1")
    resources = Resources(memory_limit_mib=77, cpu_limit=0.5)
    output = await world.run("cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", resources=resources)
    assert output.stdout.split() == [str(77 * MIB), "50000"]


# --- limits ----------------------------------------------------------------------------------------------------------------------


async def test_out_of_memory(world: World) -> None:
    output = await world.run_python("b = b'x' * (300 << 20)", resources=Resources(memory_limit_mib=64))
    assert (output.exit.exit_code, output.exit.signal, output.exit.oom_killed) == (None, signal.SIGKILL, True)
    assert output.exit.memory_peak_bytes is not None
    assert 60 * MIB < output.exit.memory_peak_bytes <= 64 * MIB


async def test_memory_just_below_the_limit_is_given(world: World) -> None:
    output = await world.run_python("b = b'x' * (40 << 20); print(len(b))", resources=Resources(memory_limit_mib=64))
    assert (output.exit.exit_code, output.exit.oom_killed, output.stdout) == (0, False, f"{40 * MIB}\n")


async def test_a_child_out_of_memory_does_not_taint_an_orderly_end(world: World) -> None:
    code = "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', \"b = b'x' * (300 << 20)\"]).returncode)"
    output = await world.run_python(code, resources=Resources(memory_limit_mib=64))
    assert (output.stdout, output.exit.exit_code, output.exit.oom_killed) == ("-9\n", 0, False)


async def test_sigkill_without_memory_pressure_is_not_oom(world: World) -> None:
    running = await world.start("sleep", "1000", resources=Resources(memory_limit_mib=64))
    running.container.kill(signal.SIGKILL)
    end = (await running.end()).exit
    assert (end.signal, end.oom_killed) == (signal.SIGKILL, False)


async def test_number_of_processes(world: World) -> None:
    code = (
        "import os, time\nn = 0\ntry:\n while True:\n  if os.fork() == 0: time.sleep(1000)\n  n += 1\nexcept BlockingIOError: print(n)\n"
        "os.kill(-1, 9)\nwhile True:\n try: os.wait()\n except ChildProcessError: break"
    )
    output = await world.run_python(code, pids_max=20)
    assert int(output.stdout) <= 20  # with itself 21, since an init's place is not of these; the runtime's helper may not have left yet
    assert int(output.stdout) >= 10


async def test_a_fork_bomb_is_contained_and_removed(world: World) -> None:
    running = await world.start_python("import os\nprint('go')\nwhile True:\n try: os.fork()\n except OSError: pass", pids_max=200)
    assert await running.line() == "go"
    begin = time.monotonic()
    assert (await world.run("echo", "alive")).stdout == "alive\n"
    await running.container.remove()
    assert time.monotonic() - begin < 60


async def test_cpu_limit_throttles(world: World) -> None:
    code = "import time\nend = time.monotonic() + 1\nwhile time.monotonic() < end: pass\nprint(time.process_time())"
    output = await world.run_python(code, resources=Resources(cpu_limit=0.25))
    assert float(output.stdout) < 0.6


# --- file system -----------------------------------------------------------------------------------------------------------------


async def test_seventy_layers_the_upper_ones_win(world: World) -> None:
    layers = [rootfs()]
    for i in range(70):
        layer = mapped(world.data_folder.parent / "layers" / f"{i:064x}")
        (mapped(layer / "opt") / f"only-{i}").write_text(str(i))
        (layer / "opt" / "top").write_text(str(i))
        layers.append(layer)
    output = await world.run("sh", "-c", "ls /opt | wc -l; cat /opt/top /opt/only-0", layers=tuple(layers))
    assert output.stdout == "71\n690"


async def test_overlay_as_on_older_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = kernel.fsconfig

    def before_6_5(context: int, key: str, value: str | None = None) -> None:
        if key == "lowerdir+":
            raise OSError(22, "Invalid argument")
        original(context, key, value)

    monkeypatch.setattr(kernel, "fsconfig", before_6_5)
    layers = []
    for i in range(100):
        layers.append(tmp_path / f"layer,with:odd={i}")
        layers[-1].mkdir()
        (layers[-1] / str(i)).touch()
    for name in ("upper:,", "work", "root"):
        (tmp_path / name).mkdir()
    mount = mounts.overlay(layers, tmp_path / "upper:,", tmp_path / "work", volatile=True)
    try:
        mounts.attach(mount, tmp_path / "root")
        assert len(os.listdir(tmp_path / "root")) == 100
    finally:
        os.close(mount)
        assert mounts.detach(tmp_path / "root")
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


async def test_upper_keeps_what_was_written_and_nothing_else(world: World, tmp_path: Path) -> None:
    upper = mapped(world.data_folder.parent / "upper")
    cache = mapped(tmp_path / "cache")
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    output = await world.run(
        "sh",
        "-c",
        "echo kept > /opt/kept; rm /etc/debian_version; echo x > /var/cache/uv/x",
        upper=upper,
        workdir="/srv/app",
        binds=(Bind(cache, "/var/cache/uv", read_only=False),),
    )
    assert output.exit.exit_code == 0, output.stderr
    assert sorted(str(path.relative_to(upper)) for path in upper.rglob("*")) == ["etc", "etc/debian_version", "opt", "opt/kept"]
    assert (upper / "opt/kept").read_text() == "kept\n"
    assert (upper / "opt/kept").stat().st_uid == DEFAULT_IDS.first
    assert (cache / "x").exists()
    # The layer so made lies over the first one in another container.
    again = await world.run("sh", "-c", "cat /opt/kept; ls /etc/debian_version", layers=(*world.layers, upper))
    assert again.stdout == "kept\n"


async def test_layers_are_never_written(world: World) -> None:
    output = await world.run("sh", "-c", "echo x > /opt/mine; echo y >> /etc/hosts.allow; rm -rf /usr/share/doc")
    assert output.exit.exit_code == 0, output.stderr
    assert not (rootfs() / "opt/mine").exists()
    assert (rootfs() / "usr/share/doc").exists()


async def test_a_read_only_bind_can_not_be_written_or_remounted(world: World) -> None:
    source = mapped(world.data_folder.parent / "source")
    (source / "file").write_text("x")
    command = "echo y > /data/file; touch /data/new; mount -o remount,rw /data; umount /data; ls /data"
    output = await world.run("sh", "-c", command, binds=(Bind(source, "/data"),))
    assert output.stdout == "file\n"
    assert (source / "file").read_text() == "x"


async def test_a_bind_from_a_private_directory(world: World) -> None:
    """The server's data may lie under a directory that mapped users can't enter."""
    private = free_folder("/root")
    private.chmod(0o700)
    try:
        (mapped(private / "sockets") / "a").write_text("seen")
        output = await world.run("cat", "/run/a/a", binds=(Bind(private / "sockets", "/run/a"),))
        assert output.stdout == "seen", output.stderr
    finally:
        drop(private)


async def test_a_socket_in_a_bound_directory(world: World) -> None:
    folder = mapped(world.data_folder.parent / "socket")
    greeted = asyncio.Event()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hi\n")
        writer.close()
        greeted.set()

    async with await asyncio.start_unix_server(greet, folder / "s"):
        os.chown(folder / "s", DEFAULT_IDS.first, DEFAULT_IDS.first)
        code = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/squall/s'); print(s.makefile().read())"
        output = await world.run_python(code, binds=(Bind(folder, "/squall"),), network=Network.NONE)
    assert output.stdout == "hi\n\n", output.stderr
    assert greeted.is_set()


# --- refusals --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": ()}, "layers"),
        ({"resources": Resources(disk_limit_mib=16), "upper": Path("/kept")}, "disk"),
        ({"workdir": "here"}, "workdir"),
        ({"id": ContainerId("../up")}, "id"),
        ({"id": ContainerId("")}, "id"),
        ({"layers": (Path("/nothing"),) * 500}, "500 layers"),
    ],
)
async def test_what_it_refuses(world: World, fields: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        await world.start("true", **fields)


async def test_a_layer_that_is_not_there(world: World) -> None:
    with pytest.raises(ContainerStartError, match="nothing"):
        await world.start("true", layers=(rootfs(), Path("/nothing")))
    assert [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if "ct-" in trace] == []


@pytest.mark.parametrize("step", ["groups.create", "points", "overlay", "attach", "runtime", "network"])
@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, ResourceExhaustedError), (errno.EPERM, ContainerStartError)])
async def test_a_failure_at_any_step_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch, step: str, number: int, error: type[Exception]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    driver = world.driver
    assert isinstance(driver, OciDriver)
    # None is being made when that begins to fail.
    await wait_until_async(lambda: len(driver.network._ready) == 2, "a full pool")
    with monkeypatch.context() as patch:
        if step in ("overlay", "attach"):
            patch.setattr(mounts, step, fail)
        elif step == "points":
            patch.setattr(points, "make", fail)
        elif step == "groups.create":
            patch.setattr(driver.groups, "create", fail)
        elif step == "network":
            patch.setattr(driver.network, "_make_namespace", fail)
            driver.network._ready.clear()  # their files are found and removed at the end
        else:
            patch.setattr(Runc, "start", fail)
        with pytest.raises(error):
            await world.start("true")
    assert [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if "ct-" in trace] == []
    assert (await world.run("echo", "works")).stdout == "works\n"


async def test_a_bad_instance_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="instance"):
        OciDriver(run=tmp_path, data=tmp_path, instance="a/b")


# --- kill -9 of the agent --------------------------------------------------------------------------------------------------------

AGENT = """
import asyncio, os, sys
from pathlib import Path
from squall.model.resources import Resources
from squall.runtime.contract import ContainerSpec
from squall.runtime.oci import OciDriver

async def one(driver, layer, worker, gvisor):
    null = os.open("/dev/null", os.O_WRONLY)
    resources = Resources(disk_limit_mib=16 if worker == "c" else None)
    for i in range(10000):
        argv = ("/bin/sleep", "0.01")
        spec = ContainerSpec(id=f"ct-{worker}-{i}", layers=(Path(layer),), argv=argv, env={}, stdout=null, stderr=null, resources=resources, gvisor=gvisor)
        container = await driver.start(spec)
        await container.wait()
        await container.remove()

async def main(run, data, instance, layer, kind):
    print("ready", flush=True)
    driver = OciDriver(run=Path(run), data=Path(data), instance=instance, ready_networks=2)
    await driver.open()
    await asyncio.gather(*(one(driver, layer, worker, kind == "gvisor") for worker in "abc"))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(("kind", "seed"), [*(("runc", seed) for seed in range(8)), *(("gvisor", seed) for seed in range(4))])
async def test_an_agent_killed_at_any_moment_leaves_nothing_after_a_sweep(world: World, kind: str, seed: int) -> None:
    await world.driver.close()
    kernel.set_subreaper(False)  # the killed agent's orphans are not this process's, as they are not a new agent's
    arguments = [str(world.run_folder), str(world.data_folder), world.instance, str(rootfs()), kind]
    with subprocess.Popen([sys.executable, "-c", AGENT, *arguments], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "ready\n"
        await asyncio.sleep(random.Random(seed).uniform(0, 0.4 if kind == "runc" else 0.9))  # not to wait for anything: the moment is the test's input
        agent.kill()
    world.driver = OciDriver(run=world.run_folder, data=world.data_folder, instance=world.instance, ready_networks=2)
    await world.driver.open()
    await world.driver.sweep(lambda _: False)
    assert (await world.run("echo", "works")).stdout == "works\n"  # the fixture looks at what is left


async def test_two_instances_side_by_side(world: World) -> None:
    folder = free_folder()
    driver = OciDriver(run=folder / "run", data=folder / "data", instance=f"u{secrets.token_hex(3)}", ready_networks=1)
    await driver.open()
    other = World(driver, "", folder / "run", folder / "data", world.layers, PYTHON)
    try:
        mine = await world.start("sleep", "1000", id=ContainerId("same"))
        theirs = await other.start("sleep", "1000", id=ContainerId("same"))
        await other.driver.sweep(lambda _: False)
        await theirs.container.remove()
        assert mine.container.usage() is not None
    finally:
        await other.close()
        drop(folder)


async def test_state_files_are_whole(world: World) -> None:
    running = await world.start("sleep", "1000")
    folder = world.run_folder / "containers" / running.container.id
    assert json.loads((folder / "config.json").read_text())["hostname"] == "squall"
    assert int((folder / "pid").read_text()) == running.container.pid
    assert (folder / "slot").read_text().isdecimal()
