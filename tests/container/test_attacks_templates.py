"""Hostile imports: what a template does to the agent, by what it says and by the descriptors that it sends. Each test is an attack that once worked."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import cloudpickle
import msgspec
import pytest

from squall.model.errors import ContainerStartError, Error
from squall.model.specs import FunctionSpec
from squall.runtime.contract import Bind, Container, ContainerSpec
from squall.runtime.host import inspect_host
from squall.runtime.lockdown import UnsafeError
from squall.runtime.template import Template
from squall.wire.messages import Boot
from support.containers import World, opened
from support.drivers import Forking, template_spec
from support.waiting import BOUND_S, wait_until_async

pytestmark = [pytest.mark.root, pytest.mark.skipif(inspect_host().driver != "fork" and not os.environ.get("CI"), reason="this host can't copy templates")]
ENV = {"PATH": "/usr/bin:/bin", "SQUALL_CONTAINER_SOCKET": "/.squall/run/agent.sock", "SQUALL_CONTAINER_ID": "tp"}
#: Patches what the template says of a copy; `lie` sends what it likes.
SAYS = """
import json, os, signal, socket
from squall.runner import template_spawn as spawn
def tell(status, what, fds=()):
    socket.send_fds(status, [what if isinstance(what, bytes) else json.dumps(what).encode()], list(fds))
def peer(status):
    return status.getsockopt(socket.SOL_SOCKET, 77)  # SO_PEERPIDFD: the process at the other end, which is the agent
def lie(status):
    {lie}
def introduce(status, role):
    lie(status)
    while status.recv(1 << 20):
        pass
    os._exit(0)
spawn.introduce = introduce
"""
LIES = {
    "the agent": 'tell(status, {"role": "instance"}, [peer(status)])',
    "the agent, and an error": 'tell(status, {"error": "x", "errno": 1}, [peer(status)]); tell(status, {"role": "instance"}, [peer(status)])',
    "a child of its own": 'child = os.fork(); child or signal.pause(); tell(status, {"role": "instance"}, [os.pidfd_open(child)])',
    "a file": 'tell(status, {"role": "instance"}, [os.open("/etc/passwd", os.O_RDONLY)])',
    "another container": 's = socket.socket(socket.AF_UNIX); s.connect("/shared/s"); tell(status, {"role": "instance"}, socket.recv_fds(s, 1, 1)[1])',
    "many": '[tell(status, {"role": "instance"}, [peer(status)] * 20) for _ in range(50)]',
    "no JSON": 'tell(status, b"{")',
    "deep JSON": 'tell(status, b\'{"role":\' + b"[" * 100_000)',
    "wrong types": 'tell(status, {"error": ["x"], "errno": "y", "role": 5}, [peer(status)])',
    "large numbers": 'tell(status, b\'{"error": "x", "errno": 1e999}\')',
}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with opened(Forking) as it:
        yield it


def boot(code: str) -> bytes:
    """Of a function whose module, brought along by value, runs this code as it is imported."""
    spec = FunctionSpec("f", "m", "f", 0, pickled=cloudpickle.dumps(_Import(code)))
    return msgspec.msgpack.encode(Boot("tp", "ap", "app", "fu", msgspec.msgpack.encode(spec), {}, {}))


class _Import:
    """Unpickled, it runs code: what an import does."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> object:
        return eval, (f"exec({self.code!r}, {{}}) or print",)


async def hostile(world: World, code: str, name: str = "tp-hostile", **fields: object) -> Template:
    assert isinstance(world.driver, Forking)
    origin = await world.driver.image_template(world.layers)
    template = await world.driver.template(template_spec(name, world.layers, argv=(), env=ENV, workdir="/root", **fields), origin)
    found = await asyncio.wait_for(template.load(boot(code), BOUND_S), BOUND_S)
    assert found.obstacle is None, found
    return template


async def copy_of(world: World, template: Template, *argv: str) -> Container:
    assert isinstance(world.driver, Forking)
    return await world.driver.start_from(template, ContainerSpec(id=world.new_id(), layers=template.layers, argv=argv, env=ENV, stdout=1, stderr=2))


#: A server of its own, which an attack may well end. It tells by its output what has become of the attacks.
SERVER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_attacks_templates import attacked
asyncio.run(attacked(sys.argv[1]))
"""


async def attacked(lie: str) -> None:
    """In the process that is attacked: three starts from the hostile template, one from an honest one; a bystander lives through it all."""
    async with opened(Forking) as world, contextlib.AsyncExitStack() as stack:

        async def kept(container: Container) -> Container:
            stack.push_async_callback(container.remove)
            return container

        victim = await kept((await world.start("/bin/sleep", "1000")).container)
        shared = world.run_folder.parent / "shared"
        shared.mkdir()
        stack.enter_context(giving(shared / "s", victim.pid))
        template = await hostile(world, SAYS.format(lie=LIES[lie]), binds=(Bind(shared, "/shared"),))
        for _ in range(3):
            try:
                await kept(await asyncio.wait_for(copy_of(world, template, "/bin/sleep", "1000"), BOUND_S))
            except (Error, OSError) as error:
                print("refused:", " ".join(str(error).split()), flush=True)
        template.need_spare()
        await wait_until_async(lambda: template._spare is not None, "a spare")
        await template.remove()
        honest = await hostile(world, "pass", "tp-honest")
        container = await kept(await copy_of(world, honest, "/bin/true"))
        assert (await asyncio.wait_for(container.wait(), BOUND_S)).exit_code == 0
        assert victim.usage() is not None, "the other container lives"
        print("the server lives", flush=True)


@contextlib.contextmanager
def giving(path: Path, pid: int) -> Iterator[None]:
    """Another container, say, that hands its own descriptor to whoever connects."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        path.chmod(0o777)
        listening.listen(8)
        pidfd = os.pidfd_open(pid)

        def give() -> None:
            with listening.accept()[0] as connection:
                socket.send_fds(connection, [b"x"], [pidfd])

        asyncio.get_running_loop().add_reader(listening, give)
        try:
            yield
        finally:
            asyncio.get_running_loop().remove_reader(listening)
            os.close(pidfd)


@pytest.mark.parametrize("lie", LIES)
async def test_a_template_lies_about_which_process_its_copy_is(lie: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", SERVER.format(here=str(Path(__file__).parent)), lie]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))}
    # Files, as pipes would be held open by containers that a lost server leaves.
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        done = await asyncio.to_thread(subprocess.run, arguments, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=2 * BOUND_S)
    said = (tmp_path / "out").read_text().splitlines()
    assert done.returncode == 0, (done.returncode, said, (tmp_path / "err").read_text())
    assert said[-1] == "the server lives"
    assert len([line for line in said if line.startswith("refused: ")]) == 3, said


async def test_a_copy_is_not_taken_for_two_containers(world: World) -> None:
    """A template shows the same copy for every start: the second gets none."""
    code = """
import os, socket, json
from squall.runner import template_spawn as spawn
FIRST = []
real = spawn.calls.clone_sibling
def clone_sibling(namespaces, body):
    if not FIRST:
        FIRST.append(real(namespaces, body))
    return FIRST[0]
spawn.calls.clone_sibling = clone_sibling
def spawned(kind, status, control, body):
    clone_sibling(spawn._ALL, lambda: spawn._guarded(status, lambda: spawn._be_instance(status, control, body)))
    if len(FIRST) > 1:
        own = os.pidfd_open(FIRST[0])
        socket.send_fds(status, [json.dumps({"role": "instance"}).encode()], [own])
        os.close(own)
        status.detach()
    else:
        FIRST.append(0)
        status.close()
import sys
sys.modules["squall.runner.template"].spawn = spawned
"""
    template = await hostile(world, code)
    first = await copy_of(world, template, "/bin/sleep", "1000")
    with pytest.raises(ContainerStartError, match="no copy of it"):
        await copy_of(world, template, "/bin/sleep", "1000")
    assert first.usage() is not None
    first.kill(signal.SIGKILL)
    await first.remove()
    await template.remove()


#: Calls whose results it writes down where the test reads them.
TRIES = """
import ctypes, os, json
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    return getattr(libc, name)(*[ctypes.c_ulong(a) if isinstance(a, int) else a for a in args])
libc.mount.restype = libc.unshare.restype = libc.setns.restype = ctypes.c_int
done = {}
"""


async def test_an_import_does_not_make_a_read_only_volume_writable(world: World) -> None:
    """Nor by a remount, nor by a copy of the mount, nor in a user namespace of its own."""
    volume, writable = world.run_folder.parent / "volume", world.run_folder.parent / "writable"
    for folder in (volume, writable):
        folder.mkdir()
        folder.chmod(0o777)
    code = (
        TRIES
        + """
RDONLY, REMOUNT, BIND, REC = 1, 32, 4096, 16384
os.mkdir("/root/at")
done["bind"] = call("mount", b"/volume", b"/root/at", None, BIND | REC, None)  # an ordinary right of a template
for path in (b"/volume", b"/root/at"):
    for flags in (REMOUNT | BIND, REMOUNT, REMOUNT | BIND | REC, REMOUNT | BIND | 0xC0ED0000):
        call("mount", b"none", path, None, flags, None)
        try:
            open(os.path.join(path.decode(), "stolen"), "w").write("x")
            done["written"] = [path.decode(), flags]
        except OSError:
            pass
done["user namespace"] = call("unshare", 0x10000000)
done["mount namespace"] = call("unshare", 0x20000)
json.dump(done, open("/writable/done", "w"))
"""
    )
    template = await hostile(world, code, binds=(Bind(volume, "/volume", read_only=True), Bind(writable, "/writable", read_only=False)))
    done = json.loads((writable / "done").read_text())
    assert done == {"bind": 0, "user namespace": -1, "mount namespace": 0}
    assert list(volume.iterdir()) == []
    await template.remove()


async def test_a_network_namespace_is_given_to_nobody_else(world: World) -> None:
    """A container may have sent a descriptor of its own to a hostile template, which may enter it. As long as that is held, its number is no other's."""
    code = "import os, time; print(os.readlink('/proc/self/ns/net')); time.sleep(1000)"
    before, descriptors, after = set(), [], set()
    try:
        for seen in (before, after):
            for _ in range(8):
                running = await world.start_python(code)
                descriptors.append(os.open(f"/proc/{running.container.pid}/ns/net", os.O_RDONLY))
                seen.add(await running.line())
                await running.container.remove()
        assert (len(before), len(after), before & after) == (8, 8, set())
    finally:
        for fd in descriptors:
            os.close(fd)


#: How a copy gets out of what it has to do to itself, and what the agent says of it.
ESCAPES = {
    "keeps its rights": ("enclosure.close_up = lambda order: None", "Cap"),
    "keeps one right": (
        "real = calls.limit_capabilities; calls.limit_capabilities = lambda kept: real(1 << 8 if kept == 0 else kept)",
        "CapPrm is 0000000000000100",
    ),
    "adds no filter": ("calls.install_filter = lambda program: None", "filter"),
    "keeps a thread": (
        "import threading, time; old = enclosure.enter_network\n"
        "enclosure.enter_network = lambda fds: (threading.Thread(target=time.sleep, args=(1000,), daemon=True).start(), old(fds))",
        "Threads is 2",
    ),
    "leaves an accomplice": (
        "import signal; old = enclosure.enter_network\nenclosure.enter_network = lambda fds: (os.fork() or signal.pause(), old(fds))",
        "another process",
    ),
    "stays in the template's network": ("enclosure.enter_network = lambda fds: os.close(fds.pop(2))", "network namespace"),
    "stays in the template's processes": ("spawn._ALL &= ~calls.CLONE_NEWPID", "pid namespace"),
}


@pytest.mark.parametrize("way", ESCAPES)
async def test_a_copy_that_is_not_locked_down_does_not_run(world: World, way: str) -> None:
    assert isinstance(world.driver, Forking)
    patch, said = ESCAPES[way]
    begin = "import os\nfrom squall.runner import template_calls as calls, template_enclosure as enclosure, template_spawn as spawn\n"
    template = await hostile(world, begin + patch)
    for _ in range(2):
        with pytest.raises(UnsafeError, match=f"not locked down: .*{said}"):
            await asyncio.wait_for(copy_of(world, template, "/bin/sleep", "1000"), BOUND_S)
    await template.remove()
