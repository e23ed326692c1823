"""Attacks from inside a container, over every driver that isolates. Each says what it tries; none may succeed. `docs/isolation.md` refers to these."""

import contextlib
import json
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from squall.model.errors import ContainerStartError
from squall.model.resources import Resources
from squall.runtime.contract import Bind, Network
from squall.runtime.host import inspect_host
from squall.runtime.ids import DEFAULT_IDS
from support.containers import World, opened
from support.drivers import make_driver
from support.waiting import wait_until_async

_BEST = inspect_host().driver
pytestmark = [pytest.mark.root, pytest.mark.skipif(_BEST == "process" and not os.environ.get("CI"), reason="this host can't run containers")]
PYTHON = "/usr/bin/python3"


@pytest.fixture(params=["fork", "oci", "gvisor"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fork" and _BEST != "fork" and not os.environ.get("CI"):
        pytest.skip("this host can't copy templates")
    async with opened(lambda run, data, instance: make_driver(request.param, run, data, instance)) as it:
        yield it


HEAD = """
import ctypes, errno, json, os, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)

def refused(result):
    "The call failed, and not because it was written wrongly."
    number = ctypes.get_errno()
    return result == -1 and number in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS)

def fails(work, *args):
    try:
        work(*args)
    except (OSError, PermissionError) as error:
        return True
    return False

def write(path, text="1"):
    with open(path, "r+") as file:  # what is not there is not made
        file.write(text)
"""


async def attack(world: World, code: str, *args: str, **fields: object) -> object:
    """Run it in a container and return the JSON that it printed last."""
    output = await world.run(PYTHON, "-c", HEAD + code, *args, rights=False, **fields)
    assert output.exit.exit_code == 0, output.stderr
    return json.loads(output.stdout.splitlines()[-1])


CALLS = {
    "mount": "libc.mount(b'none', b'/mnt', b'tmpfs', 0, None)",
    "remount writable": "libc.mount(b'none', b'/sys', None, 32 | 4096, None)",
    "umount what hides": "libc.umount2(b'/proc/keys', 2)",
    "new mount interface": "libc.syscall(430, b'tmpfs', 0)",
    "open_tree": "libc.syscall(428, -100, b'/', 1)",
    "pivot_root": "libc.syscall(155, b'/', b'/')",
    "user namespace": "libc.unshare(0x10000000)",
    "mount namespace": "libc.unshare(0x20000)",
    "user namespace by clone": "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "enter a namespace": "libc.setns(os.open('/proc/self/ns/net', 0), 0)",
    "load a module": "libc.syscall(175, b'', 0, b'')",
    "load a module from a file": "libc.syscall(313, 0, b'', 0)",
    "set the clock": "libc.clock_settime(0, (ctypes.c_long * 2)(0, 0))",
    "adjust the clock": "libc.settimeofday((ctypes.c_long * 2)(0, 0), None)",
    "reboot": "libc.reboot(0x89abcdef)",
    "swap": "libc.swapon(b'/etc/passwd', 0)",
    "kexec": "libc.syscall(246, 0, 0, 0, 0)",
    "bpf": "libc.syscall(321, 0, 0, 0)",
    "perf": "libc.syscall(298, 0, 0, 0, 0, 0)",
    "io_uring": "libc.syscall(425, 1, 0)",
    "userfaultfd": "libc.syscall(323, 0)",
    "keys": "libc.syscall(250, 0, 0, 0, 0, 0)",
    "open by handle": "libc.syscall(304, -100, 0, 0)",
    "host name": "libc.sethostname(b'x', 1)",
    "kernel log": "libc.klogctl(3, ctypes.create_string_buffer(100), 100)",
    "quota": "libc.syscall(179, 0, 0, 0, 0)",
    "vsock": "libc.socket(40, 1, 0)",
    "kernel's cryptography": "libc.socket(38, 5, 0)",
    "bluetooth": "libc.socket(31, 3, 1)",
    "xdp": "libc.socket(44, 3, 0)",
    "packet socket": "libc.socket(17, 3, 0)",
    "raw socket": "libc.socket(2, 3, 255)",
    "device node": "libc.mknod(b'/tmp/mem', 0o20666, (1 << 8) | 1)",
    "give a file away": "libc.chown(b'/tmp', 12345, 12345)",
    "another user": "libc.setresuid(1, 1, 1)",
    "acct": "libc.acct(b'/tmp/acct')",
    "chroot": "libc.chroot(b'/tmp')",
    "lower limits": "libc.setpriority(0, 0, -10)",
}


#: What gVisor's kernel grants, since nothing of this machine is behind it: a node of a device that it does not have, a priority that it does not heed.
GRANTED_BY_GVISOR = ["device node", "lower limits"]


async def test_calls_that_are_refused(world: World) -> None:
    lines = "".join(f"found[{name!r}] = refused({call})\n" for name, call in CALLS.items())
    found = await attack(world, f"found = {{}}\n{lines}print(json.dumps(found))")
    assert isinstance(found, dict)
    assert [name for name in CALLS if not found[name]] == (GRANTED_BY_GVISOR if world.driver.name == "gvisor" else [])
    if world.driver.name == "gvisor":
        assert await attack(world, "libc.mknod(b'/tmp/mem', 0o20666, (1 << 8) | 1); print(json.dumps(fails(open, '/tmp/mem', 'rb')))") is True


PATHS = [
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/pids/pids.max",
    "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/memory/release_agent",
    "/proc/1/oom_score_adj", "/dev/mem", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/kvm", "/etc/hosts", "/etc/resolv.conf",
]  # fmt: skip


async def test_files_that_can_not_be_written(world: World) -> None:
    """Some don't exist on this host; a score may be made worse but never better."""
    code = "print(json.dumps([path for path in json.loads(sys.argv[1]) if not fails(write, path, '-900')]))"
    # gVisor keeps a score of its own, and its sandbox the one that it was given.
    assert await attack(world, code, json.dumps(PATHS)) == (["/proc/1/oom_score_adj"] if world.driver.name == "gvisor" else [])


async def test_secrets_of_the_kernel_are_empty_or_hidden(world: World) -> None:
    code = """
found = {}
for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/interrupts", "/proc/latency_stats"):
    try:
        found[path] = len(open(path, "rb").read(100))
    except OSError:
        found[path] = 0
found["disks"] = len(os.listdir("/proc/scsi")) if os.path.isdir("/proc/scsi") else 0
trees = [os.walk("/sys/" + name) for name in ("class", "block", "bus", "firmware", "kernel", "module", "power")]
found["hardware"] = [where for tree in trees for where, _, files in tree if files and "/sys/class/net/" not in where]  # which are its own
print(json.dumps(found))
"""
    found = await attack(world, code)
    assert isinstance(found, dict)
    assert not any(found.values()), found


async def test_no_file_of_the_host_is_seen(world: World, tmp_path: Path) -> None:
    """By a link in a directory that is bound, by going up from the root, by the root of any process."""
    tmp_path.chmod(0o755)
    secret = tmp_path.parent / f"secret-{secrets.token_hex(4)}"
    secret.write_text("of the host")
    secret.chmod(0o644)
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, DEFAULT_IDS.first, DEFAULT_IDS.first)
    (volume / "link").symlink_to(secret)
    (volume / "up").symlink_to("../" * 20 + str(secret))
    (volume / "root").symlink_to("/proc/1/root" + str(secret))
    code = """
path = sys.argv[1]
ways = ["/volume/link", "/volume/up", "/volume/root", "/../../../.." + path, path, "/proc/1/root" + path, "/proc/self/cwd/../../../.." + path]
ways += ["/proc/1/root/../.." + path] + [f"/proc/self/fd/{fd}/{up}" + path for fd in range(20) for up in ("..", "../../../../../..")]
print(json.dumps([way for way in ways if not fails(open, way)]))
"""
    try:
        assert await attack(world, code, str(secret), binds=(Bind(volume, "/volume", read_only=False),)) == []
    finally:
        secret.unlink()


async def test_a_link_made_inside_is_not_followed_outside(world: World, tmp_path: Path) -> None:
    """What a container leaves in a volume are links, and the bind of another container over it is resolved inside."""
    tmp_path.chmod(0o755)
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, DEFAULT_IDS.first, DEFAULT_IDS.first)
    bind = (Bind(volume, "/volume", read_only=False),)
    await attack(world, "os.symlink('/etc', '/volume/etc'); print(1)", binds=bind)
    target = (Bind(volume, "/volume", read_only=False), Bind(tmp_path, "/volume/etc/sneaky"))
    before = os.listdir("/etc")
    with contextlib.suppress(ContainerStartError):  # there is no such directory inside; a driver may refuse, or make one there
        await world.run(PYTHON, "-c", "print(1)", rights=False, binds=target)
    assert os.listdir("/etc") == before


async def test_other_containers_are_neither_seen_nor_hit(world: World) -> None:
    victim = await world.start(
        PYTHON, "-u", "-c", "import signal; print('up'); signal.pause()", rights=False, env={"PATH": "/usr/bin", "SECRET": "of the other"}
    )
    assert await victim.line() == "up"
    code = """
pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
for number in (signal.SIGTERM, signal.SIGKILL):
    try:
        os.kill(-1, number)
    except ProcessLookupError:
        pass
hit = [pid for pid in range(2, 5000) if not fails(os.kill, pid, 0)]
environments = [pid for pid in pids if b"of the other" in open(f"/proc/{pid}/environ", "rb").read()]
print(json.dumps([pids, hit, environments, os.getppid()]))
"""
    # A program of `fork` has an init as process 1.
    assert await attack(world, code) == ([[1, 2], [2], [], 1] if world.driver.name == "fork" else [[1], [], [], 0])
    assert victim.container.usage() is not None
    victim.container.kill(signal.SIGKILL)
    assert (await victim.end()).exit.signal == signal.SIGKILL


async def test_shared_memory_and_queues_are_its_own(world: World) -> None:
    made = "print(json.dumps([libc.shmget(4711, 4096, 0o1666), libc.msgget(4711, 0o1666)]))"
    holder = await world.start(PYTHON, "-u", "-c", HEAD + made + "\nsignal.pause()", rights=False)
    assert -1 not in json.loads(await holder.line())
    code = """
files = [os.listdir(path) for path in ("/dev/shm", "/dev/mqueue") if os.path.isdir(path)]  # gVisor has no /dev/mqueue
print(json.dumps([libc.shmget(4711, 4096, 0), libc.msgget(4711, 0), *sum(files, [])]))
"""
    assert await attack(world, code) == [-1, -1]
    holder.container.kill(signal.SIGKILL)
    await holder.end()


async def test_the_network_of_the_host_and_of_others(world: World) -> None:
    """The server's ports by every address of this machine, its abstract sockets, another container, the cloud's metadata address."""
    listening = socket.create_server(("0.0.0.0", 0))
    abstract = socket.socket(socket.AF_UNIX)
    name = f"squall-attack-{secrets.token_hex(4)}"
    abstract.bind(f"\0{name}")
    abstract.listen()
    port = listening.getsockname()[1]
    serve = f"s = socket.create_server(('0.0.0.0', {port}))\nprint(json.dumps(os.popen('hostname -I').read().split()), flush=True)\nsignal.pause()"
    try:
        other = await world.start(PYTHON, "-c", HEAD + serve, rights=False)
        addresses = json.loads(await other.line())
        code = """
port, name, others, own = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
gateway = next(line.split()[2] for line in open("/proc/net/route").readlines()[1:] if line.split()[1] == "00000000")
gateway = socket.inet_ntoa(bytes.fromhex(gateway)[::-1])
def connects(family, address):
    with socket.socket(family) as s:
        s.settimeout(1)
        return not fails(s.connect, address)
reached = [f"{host}:{port}" for host in (gateway, "127.0.0.1", "169.254.169.254", "169.254.170.2", *others, *own) if connects(socket.AF_INET, (host, port))]
reached += ["metadata"] if connects(socket.AF_INET, ("169.254.169.254", 80)) else []
reached += ["abstract"] if connects(socket.AF_UNIX, "\\0" + name) else []
print(json.dumps(reached))
"""
        own = [found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
        assert await attack(world, code, str(port), name, json.dumps(addresses), json.dumps(own)) == []
        other.container.kill(signal.SIGKILL)
        await other.end()
    finally:
        listening.close()
        abstract.close()


async def test_without_network_there_is_only_loopback(world: World) -> None:
    code = """
with socket.create_server(("127.0.0.1", 0)) as s:
    own = not fails(socket.create_connection, s.getsockname(), 2)
print(json.dumps([own, fails(socket.create_connection, ("1.1.1.1", 53), 2), sorted(name for _, name in socket.if_nameindex() if name == "eth0")]))
"""
    assert await attack(world, code, network=Network.NONE) == [True, True, []]


async def test_a_fork_bomb_stays_in_its_bounds(world: World) -> None:
    """Under gVisor the limit is that of the sandbox, which ends when the machine refuses it a process."""
    code = """
made = 0
try:
    while made < 1000:
        if os.fork() == 0:
            time.sleep(1000)
        made += 1
except OSError as error:
    print(json.dumps([made, error.errno == errno.EAGAIN]))
"""
    if world.driver.name == "gvisor":
        assert (await world.run(PYTHON, "-c", HEAD + code, rights=False, pids_max=32)).exit.exit_code == 2
        return
    found = await attack(world, code, pids_max=32)
    assert isinstance(found, list)
    assert found[0] <= 32  # an init's place is not of these
    assert found[1]


async def test_memory_that_is_hidden_in_files_counts(world: World) -> None:
    code = "with open('/dev/shm/x', 'wb') as file:\n    for _ in range(512): file.write(bytes(1 << 20))"
    output = await world.run(PYTHON, "-c", code, rights=False, resources=Resources(memory_limit_mib=96))
    assert output.exit.oom_killed or output.exit.exit_code == 1, output


async def test_the_disk_can_not_be_filled(world: World) -> None:
    """Neither by content nor by the number of files; and what a limit allows is there."""
    code = """
def fill(path):
    written = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while written < 1 << 30:
                written += file.write(bytes(1 << 20))
    except OSError as error:
        return written >> 20, error.errno == errno.ENOSPC
    return written >> 20, False
first = fill("/root/big")
second = fill("/var/other")
os.unlink("/root/big")
made = 0
os.mkdir("/root/many")
try:
    for made in range(1_000_000):
        os.symlink("x" * 100, f"/root/many/{made}")  # takes an inode, and no block
except OSError as error:
    names = error.errno == errno.ENOSPC
print(json.dumps([first, second, names, made < 200_000]))
"""
    found = await attack(world, code, resources=Resources(disk_limit_mib=48))
    assert isinstance(found, list)
    (size, full), (more, still_full), names, few = found
    assert (full, still_full, names, few) == (True, True, True, True)
    assert 40 <= size + more <= 56


async def test_nothing_outlives_a_container(world: World) -> None:
    code = """
execs, at_exec = os.pipe()  # the copies of its end are closed by exec and exit
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.execv("/usr/bin/sleep", ["sleep-" + sys.argv[1], "1000"])
    os._exit(0)
os.close(at_exec)
os.read(execs, 1)
print(json.dumps(1))
"""
    mark = secrets.token_hex(8)
    await attack(world, code, mark)
    await wait_until_async(lambda: not any(mark.encode() in _command(pid) for pid in os.listdir("/proc") if pid.isdigit()), "the end of its processes")


def _namespace(pid: str, kind: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
    except OSError:
        return ""


def _command(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return b""


async def test_set_user_id_programs_give_nothing(world: World) -> None:
    code = """
status = {line.split(":")[0]: line.split()[1] for line in open("/proc/self/status") if line.startswith(("Cap", "Seccomp:"))}
no_new_privileges = libc.prctl(39, 0, 0, 0, 0)
print(json.dumps([sorted(set(status[name] for name in status if name.startswith("Cap"))), no_new_privileges, status["Seccomp"]]))
"""
    assert await attack(world, code) == [["0000000000000000"], 1, "2"]


async def test_limits_can_not_be_raised(world: World) -> None:
    code = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
def more():
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    except ValueError as error:
        raise OSError(error)
print(json.dumps([fails(more), resource.getrlimit(resource.RLIMIT_CORE)]))
"""
    assert await attack(world, code) == [True, [0, 0]]


async def test_a_copy_has_left_its_template(world: World) -> None:
    """No namespace, descriptor, mount or memory map of the process that it was copied from, nor of the agent, is within reach."""
    code = """
spaces = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "pid", "net", "ipc", "uts") if os.path.lexists(f"/proc/self/ns/{kind}")}
held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")]
roots = [line.split()[4] for line in open("/proc/self/mountinfo") if line.split()[4] == "/"]
suspicious = [what for what in held if what.startswith(("socket", "anon", "mnt:", "net:", "/memfd"))]
print(json.dumps([spaces, suspicious, len(roots), os.path.exists("/.squall/next")]))
"""
    # It lives on meanwhile, since the number of a namespace that has gone is given to the next one.
    running = await world.start(PYTHON, "-u", "-c", HEAD + code + "signal.pause()", rights=False)
    spaces, held, roots, next_root = json.loads(await running.line())
    init = running.container.pid
    own = {str(init), *Path(f"/proc/{init}/task/{init}/children").read_text().split()}
    others = (pid for pid in os.listdir("/proc") if pid.isdigit() and pid not in own)
    assert not {_namespace(pid, kind) for pid in others for kind in spaces} & set(spaces.values())
    assert (held, roots, next_root) == ([], 1, False)
    running.container.kill(signal.SIGKILL)
    await running.end()
