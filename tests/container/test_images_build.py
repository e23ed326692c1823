"""Images built in real containers: what is in them, what is made only once, how failures are told."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from squall.images.builder import Builder
from squall.images.settings import ImageSettings
from squall.model.errors import ImageBuildError, InvalidError, NotFoundError, ResourceExhaustedError
from squall.model.specs import ImageSpec, SourceFile, Step
from squall.runtime.ids import DEFAULT_IDS
from support.images import BASE, Studio, recipe, run, studio

pytestmark = pytest.mark.root


@pytest.fixture
async def it() -> AsyncIterator[Studio]:
    async with studio() as made:
        yield made
        assert made.unfinished() == []


def owners(root: Path) -> set[int]:
    found = {root.lstat().st_uid}
    for folder, folders, files in os.walk(root):
        found |= {os.lstat(os.path.join(folder, name)).st_uid for name in (*folders, *files)}
    return found


async def test_base_is_like_a_slim_python(it: Studio) -> None:
    image = await it.ensure()
    code = (
        "import sys, os, ssl, sqlite3, ctypes, json, subprocess\n"
        "pip = subprocess.run(['pip', '--version'], capture_output=True, text=True).stdout\n"
        "print(json.dumps([sys.version_info[:2], os.getuid(), os.path.exists('/usr/lib/python3.11/EXTERNALLY-MANAGED'), pip[:4], os.listdir('/usr/share/man'),"
        " os.stat('/usr/bin/passwd').st_mode & 0o7777, os.stat('/tmp').st_mode & 0o7777]))"
    )
    assert json.loads(await it.run_in(image, "python", "-c", code)) == [[3, 11], 0, False, "pip ", [], 0o4755, 0o1777]
    assert image.python_version == "3.11"
    assert await it.run_in(image, image.python, "-c", "print(1)") == "1\n"
    assert owners(image.layers[0]) <= {DEFAULT_IDS.first + number for number in range(DEFAULT_IDS.count)}


async def test_packages_of_debian_and_python(it: Studio) -> None:
    image = await it.ensure(Step("apt_install", {"packages": ["jq"]}), Step("pip_install", {"packages": ["six==1.16.0"]}))
    assert await it.run_in(image, "sh", "-c", "echo '{\"a\":7}' | jq .a; python3 -c 'import six; print(six.__version__, six.__file__)'") == (
        "7\n1.16.0 /usr/local/lib/python3.11/dist-packages/six.py\n"
    )
    # Nothing of the builder, of caches, or of this machine stays.
    for layer in image.layers[1:]:
        names = {str(path.relative_to(layer)) for path in layer.rglob("*")}
        assert not [
            name for name in names if name.startswith((".squall", "var/lib/apt/lists/", "var/cache/apt/archives/", "root/", "tmp/", "etc/resolv", "etc/hosts"))
        ]
        assert owners(layer) == {DEFAULT_IDS.first}
    assert (image.layers[2] / "usr/local/lib/python3.11/dist-packages/__pycache__").is_dir()


async def test_requirements_and_uv(it: Studio) -> None:
    requirements = it.file("/.squall/requirements-0.txt", b"six==1.16.0\n")
    image = await it.ensure(
        Step("pip_install_from_requirements", {}, (requirements,)),
        Step("uv_pip_install", {"packages": ["iniconfig"], "requirements": []}),
        run("uv pip install --system pluggy"),  # as in images of others that have uv
    )
    assert await it.run_in(image, "python", "-c", "import six, iniconfig, pluggy; print(six.__version__)") == "1.16.0\n"
    assert not (image.layers[1] / ".squall").exists()
    assert not (image.layers[3] / "root").exists()  # its cache is the builder's


async def test_commands_see_environment_directory_shell_and_files(it: Studio) -> None:
    image = await it.ensure(
        Step("env", {"vars": {"GREETING": "hello world"}}),
        Step("workdir", {"path": "/srv/app"}),
        Step("add_local_file", {}, (it.file("/srv/app/tool", b"#!/bin/sh\necho tool\n", executable=True),)),
        Step("shell", {"argv": ["/bin/bash", "-c"]}),
        run("cd /", 'echo "$GREETING" $(pwd) $(./tool) ${BASH_VERSION:+bash} > out'),
    )
    assert await it.run_in(image, "cat", "out") == "hello world /srv/app tool bash\n"
    assert (image.workdir, image.env["GREETING"]) == ("/srv/app", "hello world")


async def test_deletions_and_replaced_directories_show(it: Studio) -> None:
    image = await it.ensure(run("mkdir /d && touch /d/old /gone"), run("rm /gone && rm -r /d && mkdir /d && touch /d/new"))
    assert await it.run_in(image, "sh", "-c", "ls /d; ls /gone 2>&1 | wc -l; ls / | grep -c gone || true") == "new\n1\n0\n"


async def test_second_time_nothing_is_done(it: Studio) -> None:
    spec = recipe(run("echo one > /one"), Step("env", {"vars": {"A": "1"}}), run("echo two > /two"))
    assert it.builder.peek(spec) is None
    first = await it.builder.ensure(spec)
    assert it.builder.peek(spec) == first
    events: list[tuple[int, int, str]] = []
    assert await it.builder.ensure(spec, progress=lambda event: events.append((event.step, event.steps, event.state))) == first
    assert events == [(1, 4, "hit"), (2, 4, "hit"), (4, 4, "hit")]


async def test_check_of_ten_steps_is_quick(it: Studio) -> None:
    spec = recipe(*(run(f"echo {number} > /{number}") for number in range(9)))
    image = await it.builder.ensure(spec)
    times = []
    for _ in range(20):
        began = time.thread_time()  # what it takes, not what others take meanwhile
        assert it.builder.peek(spec) == image
        times.append(time.thread_time() - began)
    assert sorted(times)[10] < 0.030


async def test_asked_for_by_many_it_is_built_once(it: Studio) -> None:
    # The content tells builds apart; a second one would have to leave its mark somewhere.
    spec = recipe(run("cat /proc/sys/kernel/random/uuid > /uuid"))
    other = Builder(data=it.data, driver=it.driver, blobs=it.blobs)
    lines: list[list[str]] = [[] for _ in range(6)]
    images = await asyncio.gather(
        *(builder.ensure(spec, progress=lambda event, n=n: lines[n].append(event.state)) for n, builder in enumerate((it.builder,) * 3 + (other,) * 3))
    )
    await other.close()
    assert len({image.layers for image in images}) == 1
    assert all(states[:2] == ["hit", "start"] and states[-1] == "done" for states in lines)
    # One builder's callers hear the one build's output together.
    assert sum("log" in states for states in lines) == 3
    assert len(it.built()) == 2


async def test_ten_images_over_one_base(it: Studio) -> None:
    images = await asyncio.gather(*(it.builder.ensure(recipe(run("echo shared > /shared"), run(f"echo {n} > /n"))) for n in range(10)))
    assert len({image.layers[:2] for image in images}) == 1
    assert len({image.id for image in images}) == 10
    assert [(image.layers[2] / "n").read_text() for image in images] == [f"{n}\n" for n in range(10)]
    assert len(it.built()) == 12


@pytest.mark.parametrize(
    ("step", "cause", "code"),
    [
        (Step("pip_install", {"packages": ["squall-no-such-package-nampy"]}), "no version of squall-no-such-package-nampy", 1),
        (Step("apt_install", {"packages": ["no-such-package-nojq"]}), "no Debian package named no-such-package-nojq", 100),
        (Step("pip_install", {"packages": ["six==1.16.0", "six==1.15.0"]}), r"six==1.1\d.0 and six==1.1\d.0 can't be had together", 1),
        (run("echo fine", "echo broken >&2; exit 7"), "exit code 7; it said last: broken", 7),
        (run("frobnicate"), "the command frobnicate does not exist", 127),
        (run("kill -SEGV $$"), "signal 11 ended the command", 139),
    ],
)
async def test_failing_step_says_what_why_and_where(it: Studio, step: Step, cause: str, code: int) -> None:
    with pytest.raises(ImageBuildError, match=cause) as caught:
        await it.ensure(run("touch /before"), step, run("touch /after"))
    error = caught.value
    assert (error.step_index, error.steps, error.exit_code) == (3, 4, code)
    assert error.step.startswith(step.kind)
    assert error.log_tail
    assert error.image.startswith("im-")
    assert [event.state for event in it.events if event.state not in ("log",)] == ["hit", "start", "done", "start", "failed"]
    # The steps before it are kept, nothing of it is, and its log can be read afterwards.
    assert len(it.built()) == 2
    assert len((await it.ensure(run("touch /before"), run("touch /after"))).layers) == 3
    failed = os.listdir(it.data / "layers/.failed")
    assert it.builder.log(failed[0]) == (it.data / "layers/.failed" / failed[0] / "log").read_text() != ""


async def test_a_failed_step_can_be_tried_again(it: Studio) -> None:
    steps = (run("test -e /srv/ready"),)
    with pytest.raises(ImageBuildError):
        await it.ensure(*steps)
    assert it.builder.peek(recipe(*steps)) is None
    await it.ensure(Step("add_local_file", {}, (it.file("/srv/ready", b""),)), *steps)


async def test_output_comes_line_by_line_while_it_runs(it: Studio) -> None:
    seen = asyncio.Event()
    spec = recipe(run("echo started; while ! test -e /nowhere; do read line < /dev/zero || true; done"))

    def watch(event: object) -> None:
        if getattr(event, "line", "") == "started":
            seen.set()

    task = asyncio.create_task(it.builder.ensure(spec, progress=watch))
    await asyncio.wait_for(seen.wait(), 30)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert it.unfinished() == []
    assert await it.driver.sweep(lambda container: False) == []  # its container is gone


async def test_a_log_without_end_is_cut(it: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squall.images.maker._LOG_MAX", 10_000)
    image = await it.ensure(run("seq 1 20000"))
    log = it.builder.log(image.layers[-1].parent.name) or ""
    assert log.startswith("+ seq 1 20000\n1\n2\n")
    assert len(log) < 12_000
    assert " more characters, of which the last are:\n" in log
    assert log.endswith("19999\n20000\n")


async def test_cancelling_one_of_two_leaves_the_build_to_the_other(it: Studio) -> None:
    fifo_free = recipe(run("echo started; for i in $(seq 300); do echo $i > /$i; done"))
    started = asyncio.Event()
    first = asyncio.create_task(it.builder.ensure(fifo_free, progress=lambda event: started.set() if event.line == "started" else None))
    await asyncio.wait_for(started.wait(), 30)
    second = asyncio.create_task(it.builder.ensure(fifo_free))
    await asyncio.sleep(0)
    first.cancel()
    image = await second
    assert (image.layers[1] / "300").read_text() == "300\n"


async def test_secrets_reach_commands_and_nothing_else(it: Studio) -> None:
    value = "s3cr3t-value-9f2c"
    step = run('printf %s "$TOKEN" | md5sum | cut -c1-32 > /sum; echo "token is $TOKEN"', secrets=("TOKEN",))
    image = await it.ensure(step, secrets={"TOKEN": value, "OTHER": "x"})
    assert len((image.layers[1] / "sum").read_text()) == 33
    assert any(event.line == "token is ***" for event in it.events)
    everything = b"".join(
        path.read_bytes()
        for path in (it.data / "layers").rglob("*")
        if path.is_file() and not path.is_relative_to(it.data / "layers" / image.layers[0].parent.name)
    )
    assert value.encode() not in everything
    # Another value is no other image.
    assert await it.ensure(step, secrets={"TOKEN": "another"}) == image
    # Nor is it needed for what is there.
    assert await it.ensure(step) == image
    with pytest.raises(InvalidError, match="TOKEN"):
        await it.ensure(run("touch /never"), run('test -n "$TOKEN"', secrets=("TOKEN",)))
    assert len(it.built()) == 2


async def test_force_builds_again_and_peek_finds_the_last(it: Studio) -> None:
    spec = ImageSpec((BASE, run("cat /proc/sys/kernel/random/uuid > /uuid", force=True), run("cp /uuid /copy")))
    assert it.builder.peek(spec) is None
    first = await it.builder.ensure(spec)
    assert it.builder.peek(spec) == first
    second = await it.builder.ensure(spec)
    assert (second.layers[1] / "uuid").read_text() != (first.layers[1] / "uuid").read_text()
    assert (second.layers[2] / "copy").read_text() == (second.layers[1] / "uuid").read_text()
    assert it.builder.peek(spec) == second
    # A server that starts again knows it, too.
    assert Builder(data=it.data, driver=it.driver, blobs=it.blobs).peek(spec) == second


async def test_placed_files_lie_in_the_image_as_a_container_sees_it(it: Studio) -> None:
    files = (it.file("/lib/placed.txt", b"lib"), it.file("/tmp/t", b"t"), it.file("/root/pkg/m.py", b"X = 1\n"))
    image = await it.ensure(Step("add_local_dir", {}, files))
    # /lib is a link to /usr/lib: a real directory in the layer would have hidden all libraries.
    assert (image.layers[1] / "usr/lib/placed.txt").exists()
    assert not (image.layers[1] / "lib").exists()
    assert await it.run_in(
        image, "sh", "-c", "cat /lib/placed.txt; stat -c '%a %u' /tmp /root /root/pkg/m.py; cd /root; python -c 'import pkg.m as m; print(m.X)'"
    ) == ("lib1777 0\n700 0\n644 0\n1\n")


async def test_a_python_that_no_debian_has(it: Studio) -> None:
    spec = ImageSpec((Step("debian_slim", {"python_version": "3.12"}),))
    assert it.builder.peek(spec) is None
    # uv's build would do; here it can't be had, and the error says what can.
    with pytest.raises(
        ImageBuildError, match=r'no Python 3.12 can be had .* available are "3.11" \(Debian bookworm\), "3.13".*SQUALL_PYTHON_FALLBACK'
    ) as caught:
        await it.builder.ensure(spec)
    assert caught.value.step == "debian_slim python 3.12"


async def test_the_nearest_python_and_a_registry_as_the_settings_say(it: Studio) -> None:
    spec = ImageSpec((Step("debian_slim", {"python_version": "3.10"}),))
    near = Builder(data=it.data, driver=it.driver, blobs=it.blobs, settings=ImageSettings(python_fallback="nearest"))
    image = near.peek(spec)
    assert image is not None
    assert image.python_version == "3.11"
    named = await near.ensure(spec, progress=it.events.append)
    # An image of a name stays what it is, whatever the settings are later.
    assert it.builder.peek(ImageSpec((Step("from_id", {"image": named.id}),))) == named
    assert [event.line for event in it.events if event.state == "note"] == ["no Python 3.10 can be had here; debian_slim has 3.11 instead"]
    other = Builder(data=it.data, driver=it.driver, blobs=it.blobs, settings=ImageSettings(registry="127.0.0.1:1/library"))
    with pytest.raises(ImageBuildError, match="nothing answers") as caught:
        await other.ensure(spec)
    assert caught.value.step == "debian_slim python 3.10 of 127.0.0.1:1/library"


async def test_a_file_that_was_never_sent(it: Studio) -> None:
    with pytest.raises(NotFoundError):
        await it.ensure(Step("add_local_file", {}, (SourceFile("/a", "ab" * 32, 1),)))


async def test_source_layer(it: Studio) -> None:
    image = await it.ensure()
    assert await it.builder.source_layer(()) is None
    files = (it.file("/root/app.py", b"print('shipped')\n"), it.file("/root/tool.sh", b"#!/bin/sh\necho tool\n", executable=True))
    layers = await asyncio.gather(*(it.builder.source_layer(files) for _ in range(5)), it.builder.source_layer(files[::-1]))
    assert len(set(layers)) == 1
    layer = layers[0]
    assert layer is not None
    assert owners(layer) == {DEFAULT_IDS.first}
    assert await it.run_in(image, "sh", "-c", "python /root/app.py; /root/tool.sh; stat -c %a /root", layers=[layer]) == "shipped\ntool\n700\n"
    changed = await it.builder.source_layer((it.file("/root/app.py", b"print('changed')\n"), files[1]))
    assert changed != layer


async def test_runner_layer_is_importable_compiled_and_small(it: Studio) -> None:
    image = await it.ensure()
    layer = await it.builder.runner_layer(image)
    assert await it.builder.runner_layer(image) == layer
    code = (
        "import sys; sys.path.insert(0, '/.squall/lib')\n"
        "import msgspec, cloudpickle, squall.wire.messages as m, squall.model.specs\n"
        "print(msgspec.msgpack.encode(m.Ready(1.0, 2.0)).hex(), m.__cached__, 'asyncio' in sys.modules)\n"
        "print(m.Ready.__module__, m.__file__, cloudpickle.loads(cloudpickle.dumps(lambda: 7))())"
    )
    output = await it.run_in(image, image.python, "-B", "-c", code, layers=[layer])
    assert "/.squall/lib/squall/wire/__pycache__/messages.cpython-311.pyc" in output
    assert output.endswith("/.squall/lib/squall/wire/messages.py 7\n")
    rooms = {path.name for path in (layer / ".squall/lib/squall").iterdir() if path.is_dir()} - {"__pycache__"}
    assert rooms <= {"model", "wire", "runner", "sdk", "compat"}
    assert owners(layer) == {DEFAULT_IDS.first}


async def test_runner_layer_for_another_python_is_fetched(it: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    # As on a host with another Python than the image: nothing of this process can be copied.
    monkeypatch.setattr("squall.images.carried.Carried.fits", lambda self, version: False)
    image = await it.ensure()
    layer = await it.builder.runner_layer(image)
    code = "import sys; sys.path.insert(0, '/.squall/lib'); import msgspec, cloudpickle, squall.model.specs as s; print(msgspec.__file__, s.__cached__)"
    output = await it.run_in(image, image.python, "-B", "-c", code, layers=[layer])
    assert output == "/.squall/lib/msgspec/__init__.py /.squall/lib/squall/model/__pycache__/specs.cpython-311.pyc\n"
    assert owners(layer) == {DEFAULT_IDS.first}
    assert not (layer / ".squall/build").exists()


async def test_what_is_known_afterwards(it: Studio) -> None:
    image = await it.ensure(run("head -c 1000000 /dev/urandom > /million; echo made it"))
    base, made = it.builder.catalog.inspect(image.id)
    assert made.parent == base.key
    assert made.bytes >= 1_000_000
    assert made.seconds > 0
    assert "made it" in (it.builder.log(made.key) or "")
    assert [record.id for record in it.builder.catalog.all()] == [image.id]
    with pytest.raises(NotFoundError):
        it.builder.catalog.inspect("im-unknown")


async def test_a_step_has_its_limits() -> None:
    from dataclasses import replace

    async with studio(settings=ImageSettings(step_memory_mib=100, step_network=False)) as it:
        # One of its own: on a slow machine another step may well take that long.
        hasty = Builder(data=it.data, driver=it.driver, blobs=it.blobs, settings=replace(it.builder._settings, step_timeout_s=1.0))
        with pytest.raises(ImageBuildError, match="longer than 1 s"):
            await hasty.ensure(recipe(run("while :; do :; done")))
        await hasty.close()
        with pytest.raises(ImageBuildError, match="more than the 100 MiB that the step may have"):
            await it.ensure(run("python -c 'print(len(bytearray(300 << 20)))'"))
        assert it.unfinished() == []
        # What a limit is does not make it another layer, and a step that keeps to it is as any.
        image = await it.ensure(run("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' > /links"))
        assert (image.layers[-1] / "links").read_text() == "lo\n"
        open_ = Builder(data=it.data, driver=it.driver, blobs=it.blobs, settings=replace(it.builder._settings, step_network=True))
        lines = [f"RUN --network={kind} tail -n +3 /proc/net/dev | wc -l > /{kind}" for kind in ("none", "default")]
        image = await open_.ensure(recipe(Step("dockerfile_commands", {"commands": lines})))
        await open_.close()
        assert [(layer / name).read_text() for layer, name in zip(image.layers[1:], ("none", "default"), strict=True)] == ["1\n", "2\n"]


async def test_a_full_disk_is_said() -> None:
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", folder], check=True)
        try:
            async with studio(Path(folder)) as it:
                with pytest.raises(ResourceExhaustedError, match="is full"):
                    await it.ensure(run("head -c 60000000 /dev/zero > /large"))
                assert [name for name in os.listdir(Path(folder) / "layers") if name.startswith(".tmp")] == []
                image = await it.ensure(run("echo small > /small"))
                assert await it.run_in(image, "cat", "/small") == "small\n"
        finally:
            subprocess.run(["umount", folder], check=True)


async def test_a_layer_of_a_machine_that_lost_power_is_made_again(it: Studio) -> None:
    spec = recipe(run("echo x > /x"))
    image = await it.builder.ensure(spec)
    await it.builder.close()
    home = image.layers[1].parent
    assert not (home / "unsettled").exists()
    (home / "unsettled").write_text("another boot")
    (image.layers[1] / "x").write_bytes(b"")  # what ext4 leaves of a file that was not synced
    assert it.builder.peek(spec) is None
    again = await it.builder.ensure(spec)
    assert (again.layers[1] / "x").read_text() == "x\n"


async def test_what_was_pruned_is_built_again_and_what_is_needed_stays(it: Studio) -> None:
    kept = await it.ensure(run("echo kept > /kept"), run("echo k > /k"))
    gone = await it.ensure(run("echo kept > /kept"), run("echo g > /g"))
    named = await it.ensure(run("echo named > /named"))
    it.builder.catalog.publish("a/name", named.id)
    tried = await it.builder.prune(keep={kept.id}, try_only=True)
    assert (tried.images, gone.layers[-1].exists()) == ((gone.id,), True)
    assert await it.builder.prune(keep={kept.id}) == tried
    assert [layer.exists() for layer in gone.layers] == [True, True, False]
    assert {record.id for record in it.builder.catalog.all()} == {kept.id, named.id}
    assert (await it.ensure(run("echo kept > /kept"), run("echo g > /g"))).layers == gone.layers
    assert (gone.layers[-1] / "g").read_text() == "g\n"


async def test_over_the_budget_the_longest_unused_leaves_by_itself(it: Studio) -> None:
    old = await it.ensure(run("head -c 3000000 /dev/urandom > /old"))
    small = Builder(data=it.data, driver=it.driver, blobs=it.blobs, settings=ImageSettings(budget_bytes=1))
    small.in_use = lambda: ((), ())
    new = await small.ensure(recipe(run("echo new > /new")))
    await small.close()
    assert [layer.exists() for layer in (old.layers[-1], *new.layers)] == [False, True, True]


async def test_a_changed_file_among_many_links_the_others(it: Studio) -> None:
    def files(changed: bytes) -> Step:
        many = (it.file(f"/data/{number % 7}/{number}", b"%d" % number) for number in range(300))
        return Step("add_local_dir", {}, (*many, it.file("/data/7/changed", changed, executable=True)))

    first, second = await it.ensure(files(b"one")), await it.ensure(files(b"two"))
    before, after = ((image.layers[-1] / "data/3/10").stat() for image in (first, second))
    assert (before.st_ino, before.st_mode, before.st_uid) == (after.st_ino, after.st_mode, after.st_uid)
    assert await it.run_in(second, "sh", "-c", "cat /data/7/changed /data/3/10; find /data -type f | wc -l; echo x > /data/3/10") == "two10301\n"
    assert (first.layers[-1] / "data/7/changed").read_bytes() == b"one"
    assert (first.layers[-1] / "data/3/10").read_bytes() == b"10"
