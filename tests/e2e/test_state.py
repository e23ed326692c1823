"""What programs keep between calls, against a real server with real containers: secrets, volumes, dicts, queues, environments."""

import asyncio
import io
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stateful

import squall
from squall.exception import (
    AlreadyExistsError,
    ConflictError,
    ContainerStartError,
    DeserializationError,
    InvalidError,
    NotFoundError,
    PermissionDeniedError,
    RequestSizeError,
    SerializationError,
)
from squall.runtime.ids import DEFAULT_IDS

from .conftest import SQUALL, Runner

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def running(data: Path) -> Iterator[squall.App]:
    with stateful.app.run():
        yield stateful.app


@pytest.fixture
def files(running: squall.App) -> Iterator[squall.Volume]:
    """The volume that the functions mount, empty."""
    yield stateful.volume
    for entry in stateful.volume.listdir("/"):
        stateful.volume.remove_file(entry.path, recursive=True)


@pytest.fixture
def entries(running: squall.App) -> squall.Dict:
    stateful.shared.clear()
    return stateful.shared


@pytest.fixture
def jobs(running: squall.App) -> squall.Queue:
    stateful.jobs.clear(all=True)
    return stateful.jobs


@pytest.fixture
def command(request: pytest.FixtureRequest) -> Runner:
    runner: Runner = request.getfixturevalue("squall")
    return runner


# --- secrets ---


def test_secrets_reach_the_container_and_later_ones_win(data: Path) -> None:
    squall.Secret.objects.create("both", {"A": "named", "B": "named", "C": "named"})
    app = squall.App("secrets", secrets=[squall.Secret.from_name("both", required_keys=["A"])])

    @app.function(secrets=[squall.Secret.from_dict({"B": "own", "C": "own"})], env={"C": "env"}, serialized=True)
    def variables() -> dict[str, str]:
        return {name: os.environ[name] for name in "ABC"}

    with app.run():
        assert variables.remote() == {"A": "named", "B": "own", "C": "env"}
    squall.Secret.objects.delete("both")


def test_a_changed_secret_counts_for_containers_that_start_then(data: Path) -> None:
    squall.Secret.objects.create("changing", {"V": "first"})
    app = squall.App("changing")

    @app.function(secrets=[squall.Secret.from_name("changing")], serialized=True, single_use_containers=True)
    def value() -> str:
        return os.environ["V"]

    with app.run():
        assert value.remote() == "first"
        squall.Secret.from_name("changing").update({"V": "second"})
        deadline = time.monotonic() + 20  # a container that was started ahead may still have the first
        while value.remote() != "second":
            assert time.monotonic() < deadline
        info = squall.Secret.from_name("changing").info()
        assert info.name == "changing"
        assert info.last_used is not None
        squall.Secret.objects.delete("changing")
        with pytest.raises(NotFoundError, match="changing"):
            while True:
                value.remote()


def test_a_missing_secret_and_a_missing_key_are_said_before_anything_starts(data: Path) -> None:
    squall.Secret.objects.create("partial", {"A": "1"})
    for secret, error, says in (
        (squall.Secret.from_name("nowhere"), NotFoundError, "squall secret create nowhere"),
        (squall.Secret.from_name("partial", required_keys=["A", "MISSING"]), InvalidError, "MISSING"),
    ):
        app = squall.App("lacking", secrets=[secret])
        app.function(serialized=True, name="f")(lambda: 1)
        with pytest.raises(error, match=says), app.run():
            pass
    squall.Secret.objects.delete("partial")


def test_managing_secrets(data: Path) -> None:
    squall.Secret.objects.create("one", {"A": "1"})
    with pytest.raises(AlreadyExistsError):
        squall.Secret.objects.create("one", {"A": "2"})
    squall.Secret.objects.create("one", {"A": "2"}, allow_existing=True)
    assert "one" in [secret.name for secret in squall.Secret.objects.list()]
    assert isinstance(squall.Secret.from_name("one").info(), squall.types.SecretInfo)
    squall.Secret.objects.delete("one")
    squall.Secret.objects.delete("one", allow_missing=True)
    with pytest.raises(NotFoundError):
        squall.Secret.objects.delete("one")
    for name, values in (("bad name", {"A": "1"}), ("x" * 64, {"A": "1"}), ("ok", {"1A": "1"}), ("ok", {"A": "x" * 32_769}), ("ok", {"A": 1})):
        with pytest.raises(InvalidError):
            squall.Secret.objects.create(name, values)


def lies_in(value: str, folder: Path) -> list[str]:
    """Files below a directory that hold the value."""
    found = subprocess.run(["grep", "-rlaF", "--exclude-dir=cache", value, str(folder)], capture_output=True, text=True, check=False)
    return found.stdout.splitlines()


def test_planted_values_are_nowhere(data: Path, command: Runner, tmp_path: Path) -> None:
    """In the store, in logs, layers, the run directory, the output, error messages, or what `ps` shows of any process."""
    planted = ["planted-inline-93c1", "planted-named-7f40", "planted-cli-22ab"]
    squall.Secret.objects.create("planted", {"NAMED": planted[1]})
    done = subprocess.run([str(SQUALL), "secret", "set", "planted", "CLI=-"], input=planted[2], text=True, env=command.env, capture_output=True, check=True)
    said = done.stdout + done.stderr + command("secret", "list", "--json").stdout
    step = 'echo "used a secret of ${#NAMED} characters" > /used'
    image = squall.Image.debian_slim().run_commands(step, secrets=[squall.Secret.from_name("planted")])
    app = squall.App("planted", secrets=[squall.Secret.from_name("planted")], image=image)

    @app.function(secrets=[squall.Secret.from_dict({"INLINE": planted[0]})], env={"OPEN": "planted-open-5d1e"}, serialized=True)
    def lengths() -> tuple[int, ...]:
        print("about to look")
        return tuple(len(os.environ[name]) for name in ("INLINE", "NAMED", "CLI"))

    @app.function(secrets=[squall.Secret.from_dict({"INLINE": planted[0]})], serialized=True, retries=0)
    def fails() -> None:
        raise ValueError("without what it must not tell")

    with app.run():
        assert lengths.remote() == tuple(map(len, planted))
        with pytest.raises(ValueError, match="must not tell") as caught:
            fails.remote()
        image._build()
        layers = json.loads(command("image", "inspect", image.object_id, "--json").stdout)
        said += str(caught.value) + str(layers)
        top = Path((layers[0] if isinstance(layers, list) else layers)["layers"][-1]["path"])
        assert lies_in("used a secret of 18 characters", top) != []
        processes = subprocess.run(["ps", "axwwe", "-o", "args"], capture_output=True, check=True).stdout
        for value in planted:
            assert lies_in(value, data) + lies_in(value, Path("/run/squall")) + lies_in(value, top) == []
            assert value not in said
            assert value.encode() not in processes
        assert lies_in("planted-open-5d1e", data) != []  # what is no secret is found: the search works
    squall.Secret.objects.delete("planted")
    assert (data / "secrets.key").stat().st_mode & 0o777 == 0o600


# --- volumes ---


def test_what_one_container_writes_every_other_reads_at_once(files: squall.Volume) -> None:
    assert stateful.write.remote("a.txt", "hello") == ["a.txt"]
    assert stateful.read.remote("a.txt") == "hello"
    assert b"".join(files.read_file("a.txt")) == b"hello"
    with files.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"from outside"), "/deep/below/b.txt", mode=0o640)
    assert stateful.read.remote("deep/below/b.txt") == "from outside"
    owner = stateful.run.remote("s = os.stat('/data/deep/below/b.txt'); result = (s.st_uid, s.st_gid, oct(s.st_mode), os.stat('/data/deep').st_uid)")
    assert owner == (0, 0, "0o100640", 0)


def test_the_volume_belongs_to_the_mapped_root_and_to_nobody_here(files: squall.Volume, data: Path) -> None:
    stateful.write.remote("a.txt", "x")
    place = data / "volumes" / files.hydrate().object_id
    assert (place / "a.txt").stat().st_uid >= DEFAULT_IDS.first
    assert (data / "volumes").stat().st_mode & 0o077 == 0o011  # others pass through, and list nothing


def test_a_read_only_mount_takes_no_writes_from_either_side(files: squall.Volume) -> None:
    with pytest.raises(OSError, match="Read-only"):
        stateful.read_only.remote("x")
    assert files.listdir("/") == []


def test_listing_copying_removing(files: squall.Volume, tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "one").write_bytes(b"1")
    (tmp_path / "d" / "e" / "two").write_bytes(b"22")
    with files.batch_upload() as batch:
        batch.put_directory(tmp_path / "d", "/d")
        batch.put_file(tmp_path / "d" / "one", "/top/")
    entries = files.listdir("/", recursive=True)
    assert [(entry.path, entry.type.name, entry.size) for entry in entries if entry.type.name == "FILE"] == [
        ("d/one", "FILE", 1),
        ("d/e/two", "FILE", 2),
        ("top/one", "FILE", 1),
    ]
    assert [entry.path for entry in files.listdir("d")] == ["d/e", "d/one"]
    assert sorted(entry.path for entry in files.iterdir("d")) == ["d/e", "d/e/two", "d/one"]
    files.copy_files(["d/one"], "copy")
    files.copy_files(["d"], "tree", recursive=True)
    with pytest.raises(InvalidError, match="directory"):
        files.remove_file("tree")
    files.remove_file("tree", recursive=True)
    assert [entry.path for entry in files.listdir("/")] == ["copy", "d", "top"]
    with pytest.raises(FileNotFoundError):
        files.remove_file("tree")
    with pytest.raises(FileNotFoundError):
        list(files.read_file("tree"))
    with pytest.raises(FileExistsError), files.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"x"), "fresh")
        batch.put_file(io.BytesIO(b"x"), "copy")
    assert "fresh" not in [entry.path for entry in files.listdir("/")]
    with files.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"forced"), "copy")
    assert b"".join(files.read_file("copy")) == b"forced"


def test_large_files_come_back_whole(files: squall.Volume) -> None:
    content = os.urandom((9 << 20) + 17)
    with files.batch_upload() as batch:
        batch.put_file(io.BytesIO(content), "big")
    assert b"".join(files.read_file("big")) == content
    sink = io.BytesIO()
    assert files.read_file_into_fileobj("big", sink) == len(content)
    assert sink.getvalue() == content


def test_a_file_replaced_while_it_is_read_is_said(files: squall.Volume) -> None:
    with files.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"x" * (9 << 20)), "big")
    parts = files.read_file("big")
    next(parts)
    with files.batch_upload(force=True) as batch:
        batch.put_file(io.BytesIO(b"y" * (9 << 20)), "big")
    with pytest.raises(ConflictError, match="changed"):
        list(parts)


def test_a_container_can_not_lead_the_server_out_of_its_volume(files: squall.Volume) -> None:
    stateful.run.remote("os.symlink('/etc', '/data/etc'); os.symlink('/etc/shadow', '/data/shadow'); os.symlink('../../../store', '/data/up')")
    for attempt in (
        lambda: list(files.read_file("etc/shadow")),
        lambda: list(files.read_file("shadow")),
        lambda: files.listdir("up"),
        lambda: files.copy_files(["shadow"], "copy"),
        lambda: files.remove_file("etc/shadow"),
    ):
        with pytest.raises(InvalidError, match="leads out"):
            attempt()
    with pytest.raises(InvalidError, match=r"\.\."):
        list(files.read_file("../../token"))


def test_code_in_a_container_reaches_only_volumes_that_are_mounted_there(files: squall.Volume) -> None:
    stateful.write.remote("a.txt", "x")
    assert stateful.run.remote("result = [entry.path for entry in volume.listdir('/')]") == ["a.txt"]
    for code in (
        "volume.listdir('/')",
        "list(volume.read_file('a.txt'))",
        "squall.Volume.from_name('brand-new', create_if_missing=True).hydrate()",
        f"squall.Volume.from_id({files.hydrate().object_id!r}).remove_file('a.txt')",
        "squall.Volume.objects.delete('stateful-files')",
        "squall.Secret.objects.create('mine', {'A': '1'})",
        "squall.Secret.from_name('x').info()",
        "squall.Environment.objects.create('mine')",
    ):
        with pytest.raises(PermissionDeniedError, match="in a container"):
            stateful.elsewhere.remote(code)


def test_ephemeral_volumes_go_with_their_block(running: squall.App, data: Path) -> None:
    with squall.Volume.ephemeral() as volume:
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"x"), "a")
        place = data / "volumes" / volume.object_id
        assert (place / "a").read_bytes() == b"x"
        app = squall.App("ephemeral")

        @app.function(volumes={"/scratch": volume}, serialized=True)
        def look() -> list[str]:
            return os.listdir("/scratch")

        with app.run():
            assert look.remote() == ["a"]
    assert not place.exists()
    with pytest.raises(NotFoundError, match="ended"):
        volume.listdir("/")


def test_volumes_are_renamed_and_deleted_but_not_from_under_containers(files: squall.Volume, data: Path) -> None:
    squall.Volume.objects.create("first")
    volume = squall.Volume.from_name("first")
    place = data / "volumes" / volume.hydrate().object_id
    squall.Volume.rename("first", "second")
    with pytest.raises(AlreadyExistsError):
        squall.Volume.rename("second", "stateful-files")
    assert volume.listdir("/") == []
    squall.Volume.objects.delete("second")
    assert not place.exists()
    stateful.write.remote("a", "x")
    with pytest.raises(ConflictError, match="mounted in running containers of .*write"):
        squall.Volume.objects.delete("stateful-files")
    with pytest.raises(NotFoundError, match="squall volume create none"):
        squall.Volume.from_name("none").listdir("/")


def test_a_volume_deleted_before_a_container_starts_is_said(data: Path) -> None:
    app = squall.App("deleted")
    app.function(volumes={"/data": squall.Volume.from_name("deleted", create_if_missing=True)}, serialized=True, name="f")(lambda: 1)
    with app.run():
        squall.Volume.objects.delete("deleted")
        with pytest.raises((NotFoundError, ContainerStartError), match="deleted"):
            app.registered_functions["f"].remote()


# --- dicts ---


def test_a_dict_does_what_a_dict_does(entries: squall.Dict) -> None:
    entries["a"] = 1
    assert entries["a"] == 1
    assert "a" in entries
    assert "b" not in entries
    assert entries.get("b") is None
    assert entries.get("b", 7) == 7
    with pytest.raises(KeyError):
        entries["b"]
    with pytest.raises(KeyError):
        del entries["b"]
    with pytest.raises(KeyError):
        entries.pop("b")
    assert entries.pop("b", None) is None
    entries.update({("tuple", 1): [1, 2], 2: None}, key="value")
    assert len(entries) == 4
    assert dict(entries.items()) == {"a": 1, ("tuple", 1): [1, 2], 2: None, "key": "value"}
    assert sorted(map(str, entries.keys())) == ["('tuple', 1)", "2", "a", "key"]
    assert entries.pop("a") == 1
    assert entries.contains(2)
    assert entries.get(2, "default") is None
    assert entries.put("once", 1, skip_if_exists=True) is True
    assert entries.put("once", 2, skip_if_exists=True) is False
    assert entries["once"] == 1
    entries.clear()
    assert len(entries) == 0


def test_keys_are_the_same_wherever_and_however_they_were_made(entries: squall.Dict) -> None:
    """Pickle writes equal objects differently when parts of them are one object."""
    part = "".join(["sh", "ared"])
    entries[(part, part)] = 1
    assert entries[("shared", "".join(["shar", "ed"]))] == 1
    assert stateful.elsewhere.remote("result = shared[('shared', 'sha' + 'red')]") == 1


def test_what_a_dict_refuses(entries: squall.Dict) -> None:
    with pytest.raises(SerializationError, match="key"):
        entries[threading.Lock()] = 1
    with pytest.raises(SerializationError, match="value"):
        entries["a"] = threading.Lock()
    with pytest.raises(RequestSizeError, match="100 MiB"):
        entries["a"] = bytes(101 << 20)
    with pytest.raises(RequestSizeError, match="10000"):
        entries.update(dict.fromkeys(range(10001), 0))
    entries.update(dict.fromkeys(range(10000), 0))
    assert len(entries) == 10_000
    assert len(list(entries.keys())) == 10_000


def test_one_of_many_containers_wins_a_key(entries: squall.Dict) -> None:
    wins = list(stateful.elsewhere.map(["result = shared.put('leader', 1, skip_if_exists=True)"] * 40))
    assert wins.count(True) == 1


def test_a_value_of_a_class_that_is_not_here_says_so(entries: squall.Dict) -> None:
    there = "import sys, types; m = sys.modules['only_there'] = types.ModuleType('only_there'); exec('class C: pass', m.__dict__); shared['c'] = m.C()"
    stateful.elsewhere.remote(there)
    with pytest.raises(DeserializationError, match="only_there"):
        entries["c"]


# --- queues ---


def test_first_in_first_out_by_partition(jobs: squall.Queue) -> None:
    jobs.put(1)
    jobs.put_many([2, None, 3])
    jobs.put("other", partition="p")
    assert (jobs.len(), jobs.len(partition="p"), jobs.len(total=True)) == (4, 1, 5)
    assert list(jobs.iterate()) == [1, 2, None, 3]
    assert jobs.get() == 1
    assert jobs.get_many(10) == [2, None, 3]
    assert jobs.get(block=False) is None
    assert jobs.get_many(5, block=False) == []
    with pytest.raises(queue.Empty):
        jobs.get(timeout=0.05)
    assert jobs.get(partition="p") == "other"
    jobs.put_many([1, 2], partition="p")
    jobs.clear(partition="p")
    assert jobs.len(total=True) == 0


def test_a_blocked_get_wakes_with_the_put_and_in_order(jobs: squall.Queue) -> None:
    async def main() -> list[Any]:
        await jobs.len.aio()  # the connection is there: requests are sent, and looked at, in the order in which they are made
        done = await asyncio.gather(*(jobs.get.aio(timeout=20) for _ in range(5)), *(jobs.put.aio(value) for value in range(5)))
        return done[:5]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_waiting_uses_no_time_of_the_server(jobs: squall.Queue, data: Path) -> None:
    pid = int((data / "server.lock").read_text())

    def used() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    waiting = [threading.Thread(target=lambda: pytest.raises(queue.Empty, jobs.get, timeout=1.5)) for _ in range(20)]
    for thread in waiting:
        thread.start()
    time.sleep(0.4)
    before = used()
    for thread in waiting:
        thread.join()
    assert used() - before <= 15  # of about 110 ticks


def test_a_full_partition_makes_its_putters_wait(jobs: squall.Queue) -> None:
    jobs.put_many([0] * 5_000)
    with pytest.raises(queue.Full):
        jobs.put(1, block=False)
    with pytest.raises(queue.Full):
        jobs.put(1, timeout=0.05)
    late = threading.Thread(target=lambda: jobs.put("late", timeout=20))
    late.start()
    assert jobs.get_many(4_999) == [0] * 4_999
    late.join()
    assert jobs.get_many(10) == [0, "late"]


def test_what_a_queue_refuses(jobs: squall.Queue) -> None:
    for attempt, error in (
        (lambda: jobs.put(bytes(2 << 20)), RequestSizeError),
        (lambda: jobs.put(threading.Lock()), SerializationError),
        (lambda: jobs.put_many(list(range(5_001))), InvalidError),
        (lambda: jobs.put(1, partition=""), InvalidError),
        (lambda: jobs.put(1, partition="x" * 65), InvalidError),
        (lambda: jobs.put(1, partition_ttl=0), InvalidError),
        (lambda: jobs.get(block=False, timeout=1), InvalidError),
        (lambda: jobs.get(timeout=-1), InvalidError),
        (lambda: jobs.get_many(0), InvalidError),
    ):
        with pytest.raises(error):
            attempt()
    assert jobs.len(total=True) == 0


def test_a_partition_is_dropped_after_its_time(jobs: squall.Queue) -> None:
    jobs.put(1, partition="brief", partition_ttl=0.2)
    jobs.put(2)
    time.sleep(0.3)
    assert jobs.get(block=False, partition="brief") is None
    assert jobs.len() == 1


def test_a_get_that_is_given_up_takes_nothing(jobs: squall.Queue) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(jobs.get.aio())
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await jobs.put.aio("kept")
        assert await jobs.get.aio(timeout=5) == "kept"

    asyncio.run(main())
    # The same when its process is killed while it waits.
    program = "import squall; print(1, flush=True); squall.Queue.from_name('stateful-queue').get()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        process.kill()
    jobs.put("kept")
    assert jobs.get(timeout=5) == "kept"


def test_a_queue_is_passed_to_functions(running: squall.App) -> None:
    assert isinstance(stateful.volume.info(), squall.types.VolumeInfo)
    assert isinstance(stateful.shared.info(), squall.types.DictInfo)
    assert isinstance(stateful.jobs.info(), squall.types.QueueInfo)
    with squall.Queue.ephemeral() as q, squall.Dict.ephemeral() as d:
        call = stateful.consume.spawn(q, 30)
        stateful.produce.remote(q, 50)
        assert call.get(timeout=30) == list(range(50))
        d["x"] = 1
        assert d["x"] == 1
        assert list(d.items()) == [("x", 1)]
    with pytest.raises(NotFoundError):
        q.put(1)
    with pytest.raises(NotFoundError):
        d["x"]


def test_a_deleted_queue_lets_nobody_wait_for_ever(running: squall.App) -> None:
    squall.Queue.objects.create("going")
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            squall.Queue.from_name("going").get()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    squall.Queue.objects.delete("going")
    thread.join(20)
    assert [type(error) for error in errors] == [NotFoundError]


# --- all of them ---


def test_twins(files: squall.Volume, entries: squall.Dict, jobs: squall.Queue) -> None:
    async def main() -> None:
        await entries.put.aio("a", 1)
        assert await entries.get.aio("a") == 1
        assert [key async for key in entries.keys.aio()] == ["a"]
        await jobs.put_many.aio([1, 2, 3])
        assert [value async for value in jobs.iterate.aio()] == [1, 2, 3]
        assert await jobs.len.aio() == 3
        async with files.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"x"), "a")
        assert [entry.path for entry in await files.listdir.aio("/")] == ["a"]
        assert [part async for part in files.read_file.aio("a")] == [b"x"]
        async with squall.Dict.ephemeral() as d:
            await d.put.aio(1, 2)
            assert await d.len.aio() == 1
        with pytest.warns(squall.exception.AsyncUsageWarning, match=r"Dict\.get\.aio"):
            assert entries.get("a") == 1
        with pytest.raises(KeyError):
            await entries.pop.aio("none")
        results = await asyncio.gather(*(jobs.get.aio(timeout=5) for _ in range(3)))
        assert results == [1, 2, 3]

    asyncio.run(main())


def test_environments_keep_names_apart(data: Path, command: Runner) -> None:
    with pytest.raises(NotFoundError, match="squall environment create other"):
        squall.Dict.from_name("d", environment_name="other", create_if_missing=True).len()
    squall.Environment.objects.create("other")
    with pytest.raises(AlreadyExistsError):
        squall.Environment.objects.create("other")
    for wrong in ("", "-x", "en-x", "a" * 65, "a b"):
        with pytest.raises(InvalidError):
            squall.Environment.objects.create(wrong)
    here = squall.Dict.from_name("apart", create_if_missing=True)
    there = squall.Dict.from_name("apart", environment_name="other", create_if_missing=True)
    here["x"], there["x"] = "main", "other"
    assert (here["x"], there["x"]) == ("main", "other")
    program = """
import squall
app = squall.App("apart")
d = squall.Dict.from_name("apart")

@app.function()
def f():
    return d["x"]

@app.local_entrypoint()
def main():
    print(d["x"], f.remote())
"""
    command.program("apart.py", program)
    assert command("run", "apart.py").stdout == "main main\n"
    assert command("run", "--env", "other", "apart.py").stdout == "other other\n"
    missing = command("run", "--env", "nowhere", "apart.py")
    assert missing.returncode == 1
    assert "squall environment create nowhere" in missing.stderr
    squall.Environment.objects.delete("other")
    with pytest.raises(NotFoundError):
        squall.Dict.from_name("apart", environment_name="other").len()
    with pytest.raises(ConflictError):
        squall.Environment.objects.delete("main")


def test_the_commands(command: Runner) -> None:
    run = command
    folder = run.folder / "tree"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_bytes(b"1\n")
    (folder / "deep" / "odd\nname").write_bytes(b"22")
    assert run("volume", "create", "cli").returncode == 0
    assert run("volume", "create", "cli").returncode == 1
    assert run("volume", "put", "cli", "tree").returncode == 0
    assert "odd\\nname" in run("volume", "ls", "cli", "-r").stdout
    assert run("volume", "get", "cli", "tree", "out").returncode == 0
    assert (run.folder / "out" / "deep" / "odd\nname").read_bytes() == b"22"
    assert run("volume", "get", "cli", "tree", "out").returncode == 0  # a directory that is there is gone into
    assert "--force" in run("volume", "get", "cli", "tree", "out").stderr
    assert run("volume", "rm", "cli", "tree").returncode == 1
    assert "Say so with --yes" in run("volume", "delete", "cli").stderr
    assert run("volume", "delete", "--yes", "cli").returncode == 0
    assert run("secret", "create", "cli", "A=1").returncode == 0
    assert "A" in run("secret", "list").stdout
    assert "terminal" in run("secret", "create", "cli3", "A").stderr
    assert run("secret", "set", "cli", "B=2", "--unset", "A").returncode == 0
    assert run("secret", "delete", "-y", "cli").returncode == 0
    for kind in ("dict", "queue"):
        assert run(kind, "create", "cli").returncode == 0
        assert "cli" in run(kind, "list").stdout
        assert run(kind, "delete", "-y", "cli").returncode == 0
        assert run(kind, "delete", "-y", "cli").returncode == 1
    assert run("gc", "--dry-run").returncode == 0
