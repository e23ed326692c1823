"""What only the `fork` driver gives: templates, their copies, and a clean machine whatever happens to them."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from squall.model.errors import ContainerStartError, ResourceExhaustedError
from squall.model.ids import ContainerId
from squall.model.resources import Resources
from squall.model.specs import FunctionSpec
from squall.runtime import cgroups, kernel
from squall.runtime.contract import ContainerSpec, Network
from squall.runtime.host import inspect_host
from squall.runtime.template import Template
from squall.wire.messages import Boot
from support.containers import World, opened, traces
from support.drivers import Forking, template_spec
from support.waiting import BOUND_S, wait_until_async

pytestmark = [pytest.mark.root, pytest.mark.skipif(inspect_host().driver != "fork" and not os.environ.get("CI"), reason="this host can't copy templates")]
PYTHON = "/usr/bin/python3"
FOREVER = ("/bin/sleep", "1000")
ENV = {"PATH": "/usr/bin:/bin", "SQUALL_CONTAINER_SOCKET": "/.squall/run/agent.sock", "SQUALL_CONTAINER_ID": "tp"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with opened(Forking) as it:
        yield it


async def image_template(world: World) -> Template:
    assert isinstance(world.driver, Forking)
    return await world.driver.image_template(world.layers)


async def function_template(world: World, name: str = "tp-function", **fields: object) -> Template:
    """A copy of the image template, for a function of its own."""
    assert isinstance(world.driver, Forking)
    spec = template_spec(name, world.layers, argv=(), env=ENV, workdir="/root", **fields)
    return await world.driver.template(spec, await image_template(world))


def boot(code: str) -> bytes:
    """Of a function whose module, brought along by value, runs this code as it is imported."""
    import cloudpickle

    spec = FunctionSpec("f", "m", "f", 0, pickled=cloudpickle.dumps(_Import(code)))
    return msgspec.msgpack.encode(Boot("tp", "ap", "app", "fu", msgspec.msgpack.encode(spec), {}, {}))


class _Import:
    """Unpickled, it runs code: what an import does."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> object:
        return eval, (f"exec({self.code!r}, {{}}) or print",)


async def copy_of(world: World, template: Template, *argv: str, **fields: object) -> object:
    assert isinstance(world.driver, Forking)
    fields.setdefault("id", world.new_id())
    return await world.driver.start_from(template, ContainerSpec(layers=template.layers, argv=argv, env=ENV, stdout=1, stderr=2, **fields))  # type: ignore[arg-type]


async def test_copies_outlive_their_template_and_its_traces_go_with_the_last(world: World) -> None:
    template = await function_template(world)
    first, second = await copy_of(world, template, *FOREVER), await copy_of(world, template, *FOREVER)
    os.kill(template.pid, signal.SIGKILL)
    await asyncio.wait_for(template.ended.wait(), BOUND_S)
    await template.remove()
    left = [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if "tp-function" in trace]
    assert left != []
    for container in (first, second):
        assert container.usage() is not None  # type: ignore[attr-defined]
        container.kill(signal.SIGTERM)  # type: ignore[attr-defined]  # process 1 has no handler
        container.kill(signal.SIGKILL)  # type: ignore[attr-defined]
        assert (await container.wait()).signal == signal.SIGKILL  # type: ignore[attr-defined]
        await container.remove()  # type: ignore[attr-defined]
    assert [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if "tp-function" in trace] == []
    with pytest.raises(ContainerStartError):
        await copy_of(world, template, *FOREVER)


async def test_containers_under_gvisor_live_beside_copies(world: World) -> None:
    """They have the network to themselves while they run, and no other container gets a namespace out of which gVisor has taken the address."""
    code = "import socket, struct, fcntl; s = socket.socket(); print(socket.inet_ntoa(fcntl.ioctl(s, 0x8915, struct.pack('256s', b'eth0'))[20:24]))"
    for _ in range(2):
        under = await world.run(PYTHON, "-c", code, rights=False, gvisor=True)
        assert under.exit.exit_code == 0, under.stderr
    # The pool gives away what came back last or first: more containers than it keeps prepared meet every namespace there is.
    copies = await asyncio.gather(*(world.run(PYTHON, "-c", code, rights=False) for _ in range(6)))
    assert [copy.stderr for copy in copies] == [""] * 6
    assert all(copy.stdout.startswith(("10.", "172.", "192.168.")) for copy in copies)


async def test_the_wait_status_is_exact(world: World) -> None:
    template = await function_template(world)
    container = await copy_of(world, template, "/bin/sh", "-c", "exit 77")
    assert (await container.wait()).exit_code == 77  # type: ignore[attr-defined]
    await container.remove()  # type: ignore[attr-defined]
    await template.remove()


async def test_out_of_memory_is_told_from_its_own_group(world: World) -> None:
    template = await function_template(world)
    code = "b = bytearray(200 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1"
    container = await copy_of(world, template, PYTHON, "-c", code, resources=Resources(memory_limit_mib=64))
    end = await asyncio.wait_for(container.wait(), BOUND_S)  # type: ignore[attr-defined]
    assert (end.signal, end.oom_killed) == (signal.SIGKILL, True)
    await container.remove()  # type: ignore[attr-defined]
    await template.remove()


async def test_an_import_that_can_be_copied(world: World) -> None:
    template = await function_template(world)
    found = await template.load(boot("open('/root/written', 'w').write('x')\nprint('hello')"), 10)
    assert (found.obstacle, found.output) == (None, ((1, "hello\n"),))
    output = await world.run("/bin/cat", "/root/written")
    assert output.exit.exit_code == 1  # another template's copy does not see it
    container = await copy_of(world, template, "/usr/bin/test", "-s", "/root/written")
    assert (await container.wait()).exit_code == 0  # type: ignore[attr-defined]
    await container.remove()  # type: ignore[attr-defined]
    await template.remove()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('bad')", "ValueError: bad"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()", "thread"),
        ("import builtins, socket\nbuiltins.S = socket.socket()", "a socket"),
        ("import builtins, os\nbuiltins.P = os.memfd_create('x')", "the file /memfd:x"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
async def test_an_import_that_can_not_be_copied(world: World, code: str, reason: str) -> None:
    template = await function_template(world)
    found = await template.load(boot(code), 10)
    assert found.obstacle is not None
    assert reason in found.obstacle
    await template.remove()


async def test_an_import_that_hangs_or_dies(world: World) -> None:
    template = await function_template(world, "tp-hangs")
    with pytest.raises(TimeoutError):
        await template.load(boot("import time; time.sleep(1000)"), 0.3)
    await template.remove()
    template = await function_template(world, "tp-dies")
    with pytest.raises(OSError, match="ended during the import"):
        await template.load(boot("import os; os.kill(os.getpid(), 9)"), 10)
    await template.remove()


async def test_an_import_that_grows_is_ended_by_the_kernel(world: World) -> None:
    template = await function_template(world, resources=Resources(memory_limit_mib=64))
    with pytest.raises(OSError, match="ended during the import"):
        await template.load(boot("B = bytearray(300 << 20)\nfor i in range(0, len(B), 4096): B[i] = 1"), 30)
    await template.remove()


async def test_a_copy_that_fails_for_lack_of_processes(world: World) -> None:
    assert isinstance(world.driver, Forking)
    template = await function_template(world)
    groups, group = world.driver.groups, world.driver.group(template.id)
    groups.create(group, cgroups.Limits(1024, None, None, 1))
    with pytest.raises(ResourceExhaustedError):
        await copy_of(world, template, *FOREVER, id=ContainerId("ct-none"))
    assert not [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if "ct-none" in trace]
    groups.create(group, cgroups.Limits(1024, None, None, 100))
    container = await copy_of(world, template, "/bin/true")
    assert (await container.wait()).exit_code == 0  # type: ignore[attr-defined]
    await container.remove()  # type: ignore[attr-defined]
    await template.remove()


async def test_a_copy_that_fails_for_lack_of_memory(world: World) -> None:
    template = await function_template(world)
    # What a kernel without memory for a process answers, to this template alone.
    inject = ["strace", "-f", "-q", "-o", "/dev/null", "-e", "inject=clone,clone3:error=ENOMEM", "-p", str(template.pid)]
    with subprocess.Popen(inject, stderr=subprocess.DEVNULL) as tracer:
        await wait_until_async(lambda: f"TracerPid:\t{tracer.pid}\n" in Path(f"/proc/{template.pid}/status").read_text(), "strace at the template")
        with pytest.raises(ResourceExhaustedError):
            await copy_of(world, template, *FOREVER, id=ContainerId("ct-none"))
        tracer.terminate()
    assert not [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if "ct-none" in trace]
    container = await copy_of(world, template, "/bin/true")
    assert (await container.wait()).exit_code == 0  # type: ignore[attr-defined]
    await container.remove()  # type: ignore[attr-defined]
    await template.remove()


async def test_a_spare_that_died_is_not_used(world: World) -> None:
    template = await function_template(world)
    await (await copy_of(world, template, "/bin/true")).remove()  # type: ignore[attr-defined]
    await wait_until_async(lambda: template._spare is not None, "a spare")
    spare = [pid for pid in _group(world, template) if pid not in (template.pid, min(_group(world, template)))]
    for pid in spare:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await wait_until_async(lambda: not set(_group(world, template)) & set(spare), "the end of the spare")
    container = await copy_of(world, template, "/bin/true")
    assert (await container.wait()).exit_code == 0  # type: ignore[attr-defined]
    await container.remove()  # type: ignore[attr-defined]
    await template.remove()


def _group(world: World, template: Template) -> list[int]:
    assert isinstance(world.driver, Forking)
    return world.driver.groups.pids(world.driver.group(template.id))


async def test_what_an_import_may_not_do(world: World) -> None:
    """While it runs it has the right to make mounts and namespaces in a user namespace, and no other."""
    code = """
import ctypes, os, json
libc = ctypes.CDLL(None, use_errno=True)
status = {line.split(":")[0]: line.split()[1] for line in open("/proc/self/status") if line.startswith(("Cap", "NoNew", "Seccomp:"))}
def fails(work, *args):
    try:
        work(*args)
    except OSError:
        return True
    return False
def write(path):
    with open(path, "r+") as file:
        file.write("1")
print(json.dumps([
    status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"],
    sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    [path for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/vm/drop_caches", "/proc/kcore") if not fails(write, path)],
    libc.mount(b"/dev/vda", b"/mnt", b"ext4", 0, None), libc.mount(b"x", b"/mnt", b"cgroup", 0, b"memory"), libc.syscall(321, 0, 0, 0),
    libc.mknod(b"/tmp/mem", 0o20666, 257), libc.clock_settime(0, (ctypes.c_long * 2)(0, 0)),
    fails(os.listdir, "/proc/1/root/work"), os.listdir("/proc/1/root") == os.listdir("/"), fails(open, "/proc/1/environ") or open("/proc/1/environ").read(),
]))
"""
    template = await function_template(world)
    found = await template.load(boot(code), 10)
    assert found.obstacle is None, found
    import json

    rights = f"{(1 << 21) | (1 << 8):016x}"
    values = json.loads(found.output[0][1])
    assert values[:4] == [rights, rights, "1", "2"]
    assert values[4] == [1, 2]
    assert values[5] == []
    assert values[6:11] == [-1, -1, -1, -1, -1]
    assert values[11:13] == [True, True]
    assert "HOME" not in str(values[13])
    await template.remove()


AGENT = """
import asyncio, os, sys
from pathlib import Path
from dataclasses import replace
from squall.runtime import cgroups
from squall.runtime.contract import ContainerSpec
from support.drivers import Forking, template_spec

async def main(run, data, instance, layer, when):
    driver = Forking(Path(run), Path(data), instance)
    await driver.open()
    layers = (Path(layer),)
    image = await driver.image_template(layers)
    env = {"PATH": "/usr/bin:/bin"}
    function = await driver.template(template_spec("tp-f", layers, argv=(), env=env), image)
    add, count = driver.groups.add, 0
    def stop(group, pid):
        print("ready", flush=True)
        import time
        time.sleep(1000)
    if when == "before-cgroup":
        driver.groups.add = stop
    spec = lambda name: ContainerSpec(id=name, layers=layers, argv=("/bin/sleep", "1000"), env=env, stdout=1, stderr=2)
    if when == "template-before-cgroup":
        driver.groups.add = stop
        await driver.template(template_spec("tp-g", layers, argv=(), env=env), image)
    await driver.start_from(function, spec("ct-a"))
    while function._spare is None:  # it is to be left behind, too
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("when", ["running", "before-cgroup", "template-before-cgroup"])
async def test_an_agent_killed_at_any_moment_leaves_nothing_after_a_sweep(world: World, when: str) -> None:
    await world.driver.close()
    kernel.set_subreaper(False)
    arguments = [str(world.run_folder), str(world.data_folder), world.instance, str(world.layers[0]), when]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))}
    with subprocess.Popen([sys.executable, "-c", AGENT, *arguments], stdout=subprocess.PIPE, text=True, env=env) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "ready\n"
        agent.kill()
    world.driver = Forking(world.run_folder, world.data_folder, world.instance)
    await world.driver.open()
    removed = await world.driver.sweep(lambda _: False)
    assert removed == (["ct-a"] if when != "template-before-cgroup" else [])
    assert await world.driver.sweep(lambda _: False) == []
    left = traces(world.instance, world.run_folder, world.data_folder)
    assert [trace for trace in left if "tp-" in trace or "ct-" in trace] == []
    house = next(name for name in world.driver.groups.children(f"squall-{world.instance}"))
    assert world.driver.groups.children(f"squall-{world.instance}") == {house}


async def test_network_is_none_where_it_is_not_wanted(world: World) -> None:
    template = await function_template(world)
    code = "import socket; print(sorted(name for _, name in socket.if_nameindex() if name in ('lo', 'eth0')))"
    inside = await world.run_python(code, network=Network.NONE)
    assert inside.stdout == "['lo']\n"
    await template.remove()
