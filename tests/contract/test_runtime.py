"""What `runtime/contract.py` promises, over every driver. Each test also ends with a look for what was left behind."""

import asyncio
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from squall.model.errors import ConflictError, ContainerStartError, InvalidError
from squall.model.ids import ContainerId
from squall.runtime import kernel
from squall.runtime.contract import Bind, ContainerSpec
from squall.runtime.host import inspect_host
from support.containers import World, children, drop, free_folder, open_files, rootfs, traces
from support.drivers import make_driver
from support.waiting import BOUND_S

BEST = inspect_host().driver
needs_oci = [pytest.mark.root, pytest.mark.skipif(BEST == "process" and not os.environ.get("CI"), reason="this host can't run containers")]
needs_fork = [*needs_oci, pytest.mark.skipif(BEST == "oci" and not os.environ.get("CI"), reason="this host can't copy templates")]


@pytest.fixture(params=[pytest.param("fork", marks=needs_fork), pytest.param("oci", marks=needs_oci), pytest.param("gvisor", marks=needs_oci), "process"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    folder = free_folder()
    instance = f"t{secrets.token_hex(3)}"
    run, data = folder / "run", folder / "data"
    before, files = children(), open_files()
    oci = request.param != "process"
    kernel.set_subreaper(False)  # as an earlier test of the other driver left it: orphans of a process group are init's
    layers = (rootfs(),) if oci else ()
    driver = make_driver(request.param, run, data, instance)
    await driver.open()
    it = World(driver, instance, run, data, layers, "/usr/bin/python3" if oci else sys.executable)
    yield it
    await it.close()
    try:
        assert traces(instance, run, data) == []
        assert children() - before == set()
        left = {fd: name for fd, name in open_files().items() if fd not in files and "pytest" not in name}
        assert {name for name in left.values() if "pidfd" in name or "socket" in name or str(folder) in name or "net:[" in name} == set()
    finally:
        drop(folder)


async def test_exit_code(world: World) -> None:
    codes = (0, 1, 3, 255)
    ends = [output.exit for output in await asyncio.gather(*(world.run_python(f"import os; os._exit({code})") for code in codes))]
    assert [(end.exit_code, end.signal, end.oom_killed) for end in ends] == [(code, None, False) for code in codes]


async def test_peak_memory_is_measured(world: World) -> None:
    end = (await world.run_python("b = bytearray(64 << 20); b[::4096] = b'x' * len(b[::4096])")).exit
    assert end.memory_peak_bytes is not None
    # Where there is no cgroup, Linux counts what the process was before it became the program: a copy of this one.
    own = 0 if world.driver.capabilities.limits else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert 64 << 20 < end.memory_peak_bytes < max(200 << 20, own + (1 << 20))


async def test_segmentation_fault_is_a_signal(world: World) -> None:
    end = (await world.run_python("import ctypes; ctypes.string_at(0)")).exit
    assert (end.exit_code, end.signal) == (None, signal.SIGSEGV)


async def test_a_signal_reaches_the_program(world: World) -> None:
    running = await world.start_python(
        "import signal, sys\ndef f(n, _): print('got', n); sys.exit(7)\nsignal.signal(signal.SIGTERM, f)\nprint('ready')\nwhile True: signal.pause()"
    )
    assert await running.line() == "ready"
    running.container.kill(signal.SIGTERM)
    output = await running.end()
    assert (output.exit.exit_code, output.stdout) == (7, f"got {int(signal.SIGTERM)}\n")
    running.container.kill(signal.SIGTERM)  # no effect


async def test_kill_ends_every_process(world: World) -> None:
    running = await world.start_python("import subprocess, signal\nfor i in range(5): subprocess.Popen(['sleep', '1000'])\nprint('ready')\nsignal.pause()")
    assert await running.line() == "ready"
    running.container.kill(signal.SIGKILL)
    end = await asyncio.wait_for(running.container.wait(), BOUND_S)
    assert (end.exit_code, end.signal) == (None, signal.SIGKILL)
    assert await asyncio.wait_for(running.stdout.read(), BOUND_S) == b""  # its end comes when the last holder of the pipe is gone


async def test_the_end_of_the_first_process_ends_the_others(world: World) -> None:
    running = await world.start_python("import subprocess\nsubprocess.Popen(['sleep', '1000'])\nprint('bye')")
    assert await running.line() == "bye"
    assert (await asyncio.wait_for(running.container.wait(), BOUND_S)).exit_code == 0
    assert await asyncio.wait_for(running.stdout.read(), BOUND_S) == b""


async def test_remove_ends_processes_in_other_sessions_too(world: World) -> None:
    code = "import subprocess, signal\nsubprocess.Popen(['sleep', '1000'], start_new_session=True)\nprint('ready')\nsignal.pause()"
    running = await world.start_python(code)
    assert await running.line() == "ready"
    await running.container.remove()
    assert await asyncio.wait_for(running.stdout.read(), BOUND_S) == b""


async def test_streams_are_separate_and_stdin_is_empty(world: World) -> None:
    output = await world.run_python("import sys; print('out'); print('err', file=sys.stderr); print(repr(sys.stdin.read()))")
    assert output.stdout == "out\n''\n"
    assert output.stderr == "err\n"


async def test_environment_and_workdir(world: World, tmp_path: Path) -> None:
    workdir = "/srv/deep/er" if world.layers else str(tmp_path)
    env = {"PATH": os.environ["PATH"], "LETTERS": "ä ='\n\"", "EMPTY": ""}
    output = await world.run_python("import os, json; print(json.dumps([dict(os.environ), os.getcwd()]))", env=env, workdir=workdir)
    found, cwd = json.loads(output.stdout)
    assert {name: found.get(name) for name in env} == env
    assert set(found) - set(env) <= {"SQUALL_PROCESS_OF", "LC_CTYPE", "HOME"}  # Python adds the second, runc the third
    assert cwd == workdir


async def test_binds_are_seen_where_they_are_named(world: World, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # root inside is nobody outside
    (tmp_path / "file").write_text("hello")
    output = await world.run_python(
        "import sys, os; print(open(sys.argv[1]).read(), open(os.environ['F']).read())",
        "/opt/some/where/file",
        env={"PATH": "/usr/bin", "F": "/etc/single"},
        binds=(Bind(tmp_path, "/opt/some/where"), Bind(tmp_path / "file", "/etc/single")),
    )
    assert output.stdout == "hello hello\n", output.stderr


async def test_what_is_bound_from_below_a_directory_never_lies_outside_of_it(world: World, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "inner" / "deep").mkdir(parents=True)
    (tmp_path / "inner" / "deep" / "file").write_text("hello")
    (tmp_path / "outer").mkdir()
    (tmp_path / "inner" / "within").symlink_to("deep")
    (tmp_path / "inner" / "out").symlink_to("../outer")
    (tmp_path / "inner" / "host").symlink_to("/etc")
    code = "import os, sys\nfor path in sys.argv[1:]: print(open(path).read(), os.access(path, os.W_OK))"
    binds = Bind(tmp_path / "inner", "/opt/a", below="deep"), Bind(tmp_path / "inner", "/opt/b", below="within")
    output = await world.run_python(code, "/opt/a/file", "/opt/b/file", binds=binds)
    if not world.layers:  # the process driver mounts nothing: it names the sources
        assert output.stdout == "hello True\nhello True\n", output.stderr
        return
    assert output.stdout == "hello False\nhello False\n", output.stderr
    for out in ("out", "host", "deep/../../outer"):
        with pytest.raises((ContainerStartError, OSError)):
            await world.run_python("print('started')", binds=(Bind(tmp_path / "inner", "/opt/a", below=out),))


async def test_no_descriptor_leaks_into_the_container(world: World) -> None:
    extra = os.open("/", os.O_RDONLY)
    os.set_inheritable(extra, True)
    try:
        output = await world.run_python("import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))")
    finally:
        os.close(extra)
    assert output.stdout == "[0, 1, 2, 3]\n"  # 3 is listdir's own


async def test_waiting_by_many_after_the_end_and_cancelled(world: World) -> None:
    running = await world.start_python("import sys, signal; signal.signal(15, lambda *_: sys.exit(4)); print('ready'); signal.pause()")
    waits = [asyncio.create_task(running.container.wait()) for _ in range(3)]
    assert await running.line() == "ready"
    waits[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits[0]
    running.container.kill(signal.SIGTERM)
    ends = [await waits[1], await waits[2], await running.container.wait()]
    assert [end.exit_code for end in ends] == [4, 4, 4]


async def test_usage_while_it_runs_and_none_afterwards(world: World) -> None:
    code = "import time, signal\nb = bytearray(b'x') * (32 << 20)\nwhile time.process_time() < 0.2: pass\nprint('ready')\nsignal.pause()"
    running = await world.start_python(code)
    assert await running.line() == "ready"
    usage = running.container.usage()
    assert usage is not None
    assert 0.15 < usage.cpu_s < 5
    assert 32 << 20 < usage.memory_bytes < 200 << 20
    running.container.kill(signal.SIGKILL)
    await running.container.wait()
    assert running.container.usage() is None


async def test_remove_is_idempotent_and_finishes_when_cancelled(world: World) -> None:
    running = await world.start_python("import signal; print('ready'); signal.pause()")
    assert await running.line() == "ready"
    removal = asyncio.create_task(running.container.remove())
    await asyncio.sleep(0)  # let it begin
    removal.cancel()
    with pytest.raises(asyncio.CancelledError):
        await removal
    assert not [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if running.container.id in trace]
    await running.container.remove()
    await asyncio.gather(running.container.remove(), running.container.remove())


async def test_a_program_that_is_not_there(world: World) -> None:
    with pytest.raises(ContainerStartError, match="nothing-here"):
        await world.start("/nothing-here")
    assert not [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if "ct-" in trace]


async def test_an_id_is_used_once(world: World) -> None:
    running = await world.start_python("import signal; signal.pause()")
    with pytest.raises(InvalidError, match="exists already"):
        await world.start_python("", id=running.container.id)
    assert running.container.usage() is not None
    running.container.kill(signal.SIGKILL)
    await running.end()


async def test_a_cancelled_start_leaves_nothing(world: World) -> None:
    for turns in (1, 2, 3, 5, 8, 13):
        await _cancel_after(world, turns)


async def _cancel_after(world: World, turns: int) -> None:
    with open(os.devnull, "w") as null:
        argv, env = (world.python, "-c", "import signal; signal.pause()"), {"PATH": os.environ["PATH"]}
        spec = ContainerSpec(id=world.new_id(), layers=world.layers, argv=argv, env=env, stdout=null.fileno(), stderr=null.fileno())
        start = asyncio.create_task(world.driver.start(spec))
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        try:
            container = await start
        except asyncio.CancelledError:
            assert not [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if "ct-" in trace]
        else:
            await container.remove()


async def test_one_process_at_a_time_has_an_instance(world: World) -> None:
    other = make_driver(world.driver.name, world.run_folder, world.data_folder, world.instance)
    with pytest.raises(ConflictError, match=world.instance):
        await other.open()


async def test_many_at_once(world: World) -> None:
    outputs = await asyncio.gather(*(world.run_python(f"print({i})") for i in range(12)))
    assert [output.stdout for output in outputs] == [f"{i}\n" for i in range(12)]


AGENT = """
import asyncio, os, sys
from pathlib import Path
from squall.runtime.contract import ContainerSpec
from support.drivers import make_driver

async def main(kind, run, data, instance, layer, python):
    driver = make_driver(kind, Path(run), Path(data), instance)
    await driver.open()
    null = os.open("/dev/null", os.O_WRONLY)
    for name in ("ct-a", "ct-b"):
        argv = (python, "-c", "import signal; signal.pause()")
        await driver.start(ContainerSpec(id=name, layers=(Path(layer),), argv=argv, env={"PATH": "/usr/bin:/bin"}, stdout=null, stderr=null))
    print("ready", flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(*sys.argv[1:]))
"""


async def start_and_kill_agent(world: World) -> None:
    """Another process opens the instance, starts ct-a and ct-b, and is killed."""
    await world.driver.close()
    kernel.set_subreaper(False)  # the killed agent's orphans are not this process's, as they are not a new agent's
    layer = str(world.layers[0]) if world.layers else "/"
    arguments = [world.driver.name, str(world.run_folder), str(world.data_folder), world.instance, layer, world.python]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))}
    with subprocess.Popen([sys.executable, "-c", AGENT, *arguments], stdout=subprocess.PIPE, text=True, env=env) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "ready\n"
        agent.kill()
    world.driver = make_driver(world.driver.name, world.run_folder, world.data_folder, world.instance)
    await world.driver.open()


async def test_sweep_after_a_killed_agent(world: World) -> None:
    await start_and_kill_agent(world)
    assert [trace for trace in traces(world.instance, world.run_folder, world.data_folder) if "ct-a" in trace] != []
    assert await world.driver.sweep(lambda _: False) == ["ct-a", "ct-b"]
    assert await world.driver.sweep(lambda _: False) == []
    assert await world.driver.adopt(ContainerId("ct-a")) is None


async def test_adopt_after_a_killed_agent(world: World) -> None:
    await start_and_kill_agent(world)
    kept = await world.driver.adopt(ContainerId("ct-a"))
    assert kept is not None
    assert await world.driver.sweep(lambda name: name == "ct-a") == ["ct-b"]
    assert kept.usage() is not None
    assert os.path.exists(f"/proc/{kept.pid}")
    kept.kill(signal.SIGKILL)
    end = await asyncio.wait_for(kept.wait(), BOUND_S)
    assert end.exit_code is None
    await kept.remove()
    assert await world.driver.adopt(ContainerId("ct-never")) is None


async def test_close_leaves_containers_running(world: World) -> None:
    running = await world.start_python("import signal; print('ready'); signal.pause()")
    assert await running.line() == "ready"
    pid = running.container.pid
    await world.driver.close()
    await world.driver.close()
    assert os.path.exists(f"/proc/{pid}")
    world.driver = make_driver(world.driver.name, world.run_folder, world.data_folder, world.instance)
    await world.driver.open()
    adopted = await world.driver.adopt(running.container.id)
    assert adopted is not None
    assert adopted.pid == pid
    world.running.clear()
    running.close()
    adopted.kill(signal.SIGKILL)
    await adopted.wait()
    await adopted.remove()


async def test_capabilities_say_what_is_missing(world: World) -> None:
    capabilities = world.driver.capabilities
    assert capabilities.isolation == bool(world.layers)
    assert all((capabilities.isolation, capabilities.images, capabilities.limits, capabilities.network)) or capabilities.missing


async def test_empty_argv(world: World) -> None:
    with pytest.raises(InvalidError, match="argv"):
        await world.driver.start(ContainerSpec(id=ContainerId("ct-x"), layers=world.layers, argv=(), env={}, stdout=1, stderr=2))
