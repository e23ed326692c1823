"""Volumes beyond the plain directory: snapshots, quotas, strict mounts, transfers that were cut, the older kind."""

import errno
import hashlib
import io
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import storing

import squall
from squall.exception import ConflictError, ConnectionError, InvalidError, NotFoundError, PermissionDeniedError, ResourceExhaustedError
from squall.wire.address import socket_path
from squall.wire.framing import pack
from squall.wire.messages import PROTOCOL_VERSION, Hello, Request
from squall.wire.state import NewFile, VolumeUpload, VolumeWrite
from support.s3 import S3
from support.waiting import wait_until

from .conftest import SQUALL, Runner

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def running(data: Path) -> Iterator[squall.App]:
    with storing.app.run():
        yield storing.app


@pytest.fixture
def command(request: pytest.FixtureRequest) -> Runner:
    runner: Runner = request.getfixturevalue("squall")
    return runner


@pytest.fixture
def volume(data: Path) -> Iterator[squall.Volume]:
    with squall.Volume.ephemeral() as fresh:
        yield fresh


def put(volume: squall.Volume, **files: bytes) -> None:
    with volume.batch_upload(force=True) as batch:
        for name, content in files.items():
            batch.put_file(io.BytesIO(content), name)


def content(volume: squall.Volume) -> dict[str, bytes]:
    return {entry.path: b"".join(volume.read_file(entry.path)) for entry in volume.listdir("/", recursive=True) if entry.type.name == "FILE"}


# --- snapshots ---


def test_a_snapshot_is_what_was_there_whatever_is_written_afterwards(volume: squall.Volume, data: Path) -> None:
    put(volume, a=b"1", b=b"22")
    place = data / "volumes" / volume.object_id
    os.symlink("a", place / "link")
    (place / "empty").mkdir()
    first = volume.snapshot("the first")
    with (place / "a").open("ab") as file:  # into the very file, as containers do
        file.write(b" and more")
    put(volume, b=b"other", c=b"new")
    (place / "link").unlink()
    (place / "link").mkdir()
    (place / "link" / "in").write_bytes(b"x")
    second = volume.snapshot()
    assert [(kept.id, kept.note, kept.files, kept.bytes) for kept in volume.history()] == [(second.id, "", 4, 19), (first.id, "the first", 2, 3)]
    volume.restore(first.id)
    assert content(volume) == {"a": b"1", "b": b"22"}
    assert os.readlink(place / "link") == "a"
    assert (place / "empty").is_dir()
    volume.restore(second.id)
    assert content(volume) == {"a": b"1 and more", "b": b"other", "c": b"new", "link/in": b"x"}
    volume.forget(first.id)
    with pytest.raises(NotFoundError, match="squall volume history"):
        volume.restore(first.id)
    with pytest.raises(NotFoundError, match="no id of a snapshot"):
        volume.restore("../../x")


def test_what_did_not_change_is_kept_once(volume: squall.Volume, data: Path) -> None:
    put(volume, big=os.urandom(2 << 20), small=b"1")
    first, _ = volume.snapshot(), put(volume, small=b"2")
    second = volume.snapshot()
    kept = data / "volumes" / ".snapshots" / volume.object_id
    inodes = {name: [(kept / each.id / "files" / name).stat().st_ino for each in (first, second)] for name in ("big", "small")}
    assert len(set(inodes["big"])) == 1
    assert len(set(inodes["small"])) == 2
    assert (data / "volumes" / volume.object_id / "big").stat().st_ino not in inodes["big"]


# --- quotas ---


def test_a_quota_is_held_by_the_kernel_and_can_be_raised(running: squall.App, command: Runner) -> None:
    fill = "import errno\ntry:\n    with open('/limited/big', 'wb') as f:\n        for n in range(100): f.write(bytes(1 << 20))\n    result = 0\n"
    fill += "except OSError as error:\n    result = error.errno, os.path.getsize('/limited/big') >> 20"
    number, mib = storing.within.remote(fill)
    assert number == errno.ENOSPC
    assert 8 <= mib <= 32
    with pytest.raises(ResourceExhaustedError):
        put(storing.limited, more=bytes(1 << 20))
    assert [entry.path for entry in storing.limited.listdir("/")] == ["big"]
    kept = storing.limited.snapshot()
    assert kept.files == 1
    storing.limited.remove_file("big")
    put(storing.limited, more=bytes(1 << 20))
    assert command("volume", "create", "growing", "--quota", "1MiB").returncode == 0
    growing = squall.Volume.from_name("growing")
    put(growing, a=b"kept")
    assert command("volume", "quota", "growing", "64MiB").returncode == 0
    put(growing, b=bytes(50 << 20))
    assert content(growing)["a"] == b"kept"
    assert "64.0 MiB" in command("volume", "list").stdout
    with pytest.raises(InvalidError, match="only be raised"):
        growing.set_quota("1MiB")
    with pytest.raises(InvalidError, match="without a quota"):
        storing.strict.set_quota("1MiB")
    squall.Volume.objects.delete("growing")
    for wrong in ("much", "-1", "10 XB"):
        with pytest.raises(InvalidError, match="not a size"):
            squall.Volume.from_name("x", quota=wrong)
    with pytest.raises(InvalidError, match="between 1 MiB"):
        squall.Volume.objects.create("tiny", quota=5)
    with pytest.raises(ResourceExhaustedError, match="MiB left"):
        squall.Volume.objects.create("huge", quota="500TiB")
    assert "huge" not in [each.name for each in squall.Volume.objects.list()]


# --- strict mounts ---


def test_a_strict_mount_changes_by_commit_and_reload_only(running: squall.App) -> None:
    look = "result = {n: open('/data/' + n).read() for n in sorted(os.listdir('/data'))}"
    assert storing.one.remote(look) == {}
    assert storing.other.remote(look) == {}
    storing.one.remote("open('/data/a', 'w').write('from one')")
    assert content(storing.strict) == {}  # not committed
    storing.one.remote("strict.commit()")
    assert content(storing.strict) == {"a": b"from one"}
    assert storing.other.remote(look) == {}  # not reloaded
    assert storing.other.remote("strict.reload(); " + look) == {"a": "from one"}
    storing.other.remote("os.unlink('/data/a'); open('/data/b', 'w').write('from other'); strict.commit()")
    assert storing.one.remote(look) == {"a": "from one"}
    assert storing.one.remote("strict.reload(); " + look) == {"b": "from other"}


def test_a_strict_reload_fails_with_open_files(running: squall.App) -> None:
    storing.one.remote("os.makedirs('/data/deep', exist_ok=True); kept = open('/data/deep/open', 'w'); __import__('builtins').kept = kept")
    with pytest.raises(ConflictError, match="open files preventing the operation: deep/open"):
        storing.one.remote("strict.reload()")
    storing.one.remote("__import__('builtins').kept.close(); strict.reload()")


def test_a_strict_mount_is_committed_when_its_container_ends(running: squall.App) -> None:
    storing.once.remote("open('/data/last', 'w').write('words')")
    wait_until(lambda: "last" in content(storing.strict), "the commit")


def test_strict_mounts_leave_nothing(running: squall.App, data: Path) -> None:
    storing.once.remote("open('/data/x', 'w')")
    views = data / "volumes" / ".views"

    def there() -> int:
        try:
            return sum(len(os.listdir(folder)) for folder in views.iterdir())
        except FileNotFoundError:  # one went while we looked
            return sys.maxsize

    wait_until(lambda: there() <= 2, "the removal of the views")  # those of `one` and `other` stay


# --- parts of volumes ---


def test_a_directory_of_a_volume_is_mounted_and_nothing_beside_it_is_reached(running: squall.App, data: Path) -> None:
    parts = storing.parts
    with parts.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"in"), "in/a")
        batch.put_file(io.BytesIO(b"other"), "beside")
    # The directory to be written was not there; the container has made it.
    assert storing.part.remote("open('/out/b', 'w').write('out'); parts.commit(); result = [os.listdir('/in'), os.stat('/out').st_uid]") == [["a"], 0]
    assert content(parts) == {"beside": b"other", "in/a": b"in", "out/deep/b": b"out"}
    with pytest.raises(OSError, match="Read-only"):
        storing.part.remote("open('/in/c', 'w')")
    # Through the server, code in the container reaches as much as it has mounted, by paths from the volume's root.
    assert storing.part.remote("result = [entry.path for entry in parts.listdir('in')] + [entry.path for entry in parts.iterdir('out/deep')]") == [
        "in/a",
        "out/deep/b",
    ]
    assert storing.part.remote("result = b''.join(parts.read_file('/out/deep/b'))") == b"out"
    storing.part.remote("import io\nwith parts.batch_upload() as batch: batch.put_file(io.BytesIO(b'c'), 'out/deep/c')")
    storing.part.remote("parts.remove_file('out/deep/c')")
    storing.part.remote("os.symlink('../../beside', '/out/link')")
    for refused in ("parts.listdir('/')", "list(parts.read_file('beside'))", "parts.remove_file('in/a')", "parts.copy_files(['in/a'], 'out/deep/a')"):
        with pytest.raises(PermissionDeniedError, match="is all of the volume that is mounted"):
            storing.part.remote(refused)
    with pytest.raises(InvalidError, match="leads out"):
        storing.part.remote("list(parts.read_file('out/deep/link'))")
    with pytest.raises(PermissionDeniedError, match="snapshots"):
        storing.part.remote("parts.snapshot()")


@pytest.mark.parametrize("runtime", [None, "gvisor"])
def test_a_part_of_a_volume_that_is_no_directory_or_leads_out_is_said(running: squall.App, data: Path, runtime: str | None) -> None:
    parts = squall.Volume.from_name("storing-wrong", create_if_missing=True)
    place = data / "volumes" / parts.hydrate().object_id
    (place / "file").write_text("x")
    if not (place / "link").is_symlink():
        (place / "link").symlink_to("/etc")
    for path, said in (("file/below", "not a directory"), ("link/ssl", "leads out")):
        app = squall.App("wrong-part")
        app.function(volumes={"/part": parts.with_mount_options(sub_path=path)}, serialized=True, name="list", runtime=runtime)(lambda: os.listdir("/part"))
        with app.run(), pytest.raises(InvalidError, match=said):
            app.registered_functions["list"].remote()


def test_a_strict_mount_of_a_part_is_committed_to_that_part(running: squall.App) -> None:
    storing.strict_part.remote("open('/data/new', 'w').write('n'); strict.commit()")
    assert content(storing.strict)["part/new"] == b"n"


# --- transfers ---


def test_an_upload_that_was_cut_goes_on(volume: squall.Volume, tmp_path: Path, data: Path) -> None:
    source = tmp_path / "big"
    source.write_bytes(os.urandom(9 << 20))

    class Cut(Exception):
        pass

    def stop(files: int, size: int) -> None:
        raise Cut

    batch = volume.batch_upload()
    batch.put_file(source, "big")
    from squall.sdk.client.sync_async import talk

    with pytest.raises(Cut):
        talk(volume.client, batch.upload(stop))
    (half,) = (data / "volumes" / ".staging").glob("ur*")
    assert half.stat().st_size == 4 << 20
    sent: list[int] = []
    with volume.batch_upload() as again:
        again.put_file(source, "big")
        talk(volume.client, again.send(lambda files, size: sent.append(size)))
        again.files.clear()
    assert content(volume) == {"big": source.read_bytes()}
    assert not half.exists()
    # What had arrived was damaged: the digest says so, and nothing appears.
    with pytest.raises(Cut):
        other = volume.batch_upload()
        other.put_file(source, "other")
        talk(volume.client, other.upload(stop))
    (half,) = (data / "volumes" / ".staging").glob("ur*")
    half.write_bytes(bytes(4 << 20))
    with pytest.raises(squall.exception.DataLossError, match="send it again"), volume.batch_upload() as damaged:
        damaged.put_file(source, "other")
    with volume.batch_upload() as whole:
        whole.put_file(source, "other")
    assert content(volume)["other"] == source.read_bytes()


def test_an_upload_cut_at_any_byte_leaves_nothing_or_all(volume: squall.Volume, data: Path) -> None:
    hello = pack(Hello(PROTOCOL_VERSION, "client", "cut"))
    small = pack(Request(1, VolumeWrite(volume.object_id, (NewFile("small", b"s" * 3000), NewFile("deep/small", b"d" * 3000)))))
    first = pack(Request(1, VolumeUpload(volume.object_id, "cut", "large", 0, b"l" * 3000)))
    last = pack(Request(2, VolumeUpload(volume.object_id, "cut", "large", 3000, b"l" * 3000, True, None, hashlib.sha256(b"l" * 6000).hexdigest())))
    for stream in (small, first + last):
        for size in (*range(0, len(stream), len(stream) // 25), len(stream) - 1):
            with socket.socket(socket.AF_UNIX) as cut:
                cut.connect(str(socket_path(data)))
                cut.sendall(hello + stream[:size])
            assert content(volume) == {}, size
        (data / "volumes" / ".staging" / "ucut").unlink(missing_ok=True)
    put(volume, whole=b"x")
    assert content(volume) == {"whole": b"x"}


def test_commands_of_history_and_transfer(command: Runner, data: Path) -> None:
    run = command
    tree = run.folder / "tree"
    for number in range(250):
        (tree / f"{number % 5}").mkdir(parents=True, exist_ok=True)
        (tree / f"{number % 5}" / f"{number}").write_text(str(number))
    (tree / "big").write_bytes(os.urandom(9 << 20))
    assert run("volume", "create", "moved").returncode == 0
    assert "251 files are" in run("volume", "put", "moved", "tree", "/").stderr
    (tree / "0" / "5").write_text("changed")
    assert "already" in run("volume", "put", "moved", "tree", "/").stderr
    assert "1 file is in volume moved, 250 had been there" in run("volume", "put", "--resume", "--force", "moved", "tree", "/").stderr
    assert run("volume", "get", "moved", "tree", "back").returncode == 0
    assert {p.relative_to(run.folder / "back"): p.read_bytes() for p in (run.folder / "back").rglob("*") if p.is_file()} == {
        p.relative_to(tree): p.read_bytes() for p in tree.rglob("*") if p.is_file()
    }
    assert "nothing" not in run("volume", "snapshot", "moved", "-m", "all").stderr
    kept = squall.Volume.from_name("moved").history()[0]
    assert run("volume", "rm", "-r", "moved", "tree").returncode == 0
    assert "all" in run("volume", "history", "moved").stdout
    assert "Say so with --yes" in run("volume", "restore", "moved", kept.id).stderr
    assert run("volume", "restore", "--yes", "moved", kept.id[-6:]).returncode == 0
    assert '"files": 251' in run("volume", "du", "moved", "--json").stdout
    assert len(squall.Volume.from_name("moved").history()) == 2
    done = run("volume", "shell", "moved", "-c", "ls tree | head -2; echo hi > new; id -u")
    assert (done.returncode, done.stdout) == (0, "0\n1\n0\n"), done.stderr
    assert run("volume", "get", "moved", "new", "-").stdout == "hi\n"
    assert "Read-only" in run("volume", "shell", "moved", "--read-only", "-c", "touch y").stderr
    assert run("volume", "snapshot", "moved", "--delete", kept.id).returncode == 0
    assert run("volume", "delete", "--yes", "moved").returncode == 0


def test_a_value_typed_at_the_prompt_is_taken_and_not_shown(command: Runner) -> None:
    leader, terminal = pty.openpty()
    try:
        with subprocess.Popen(
            [SQUALL, "secret", "create", "typed", "TOKEN"], stdin=terminal, stdout=terminal, stderr=terminal, env=command.env, start_new_session=True
        ) as asking:
            shown = b""
            while b"TOKEN:" not in shown:
                shown += os.read(leader, 1000)
            os.write(leader, b"typed-value-81\n")
            assert asking.wait(20) == 0
        os.set_blocking(leader, False)
        shown += os.read(leader, 10_000)
    finally:
        os.close(leader)
        os.close(terminal)
    assert "✓ secret typed has TOKEN" in shown.decode()
    assert b"typed-value-81" not in shown
    secret = squall.Secret.from_name("typed", required_keys=["TOKEN"])
    assert secret.hydrate() is secret
    assert secret.object_id.startswith("st-")
    with pytest.raises(InvalidError, match="has no OTHER"):
        squall.Secret.from_name("typed", required_keys=["OTHER"]).hydrate()
    with pytest.raises(InvalidError, match="no name"):
        squall.Secret.from_dict({"A": "1"}).info()
    squall.Secret.objects.delete("typed")


# --- the older kind ---


def test_a_network_file_system_is_a_volume_by_its_older_name(data: Path, tmp_path: Path) -> None:
    with pytest.warns(squall.exception.DeprecationError, match="old name of Volume"):
        old = squall.NetworkFileSystem.from_name("older", create_if_missing=True)
    assert old.write_file("/a", io.BytesIO(b"1")) == 1
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"2")
    old.add_local_dir(tmp_path / "d")
    old.add_local_file(tmp_path / "d" / "f", "/g")
    assert content(squall.Volume.from_name("older")) == {"a": b"1", "d/f": b"2", "g": b"2"}
    app = squall.App("older")

    @app.function(network_file_systems={"/old": old}, serialized=True)
    def names() -> list[str]:
        return sorted(os.listdir("/old"))

    with app.run():
        assert names.remote() == ["a", "d", "g"]
    squall.NetworkFileSystem.delete("older")


# --- buckets ---


def bucket_app(bucket: squall.CloudBucketMount) -> squall.App:
    """One function: runs Python source where the bucket is mounted, and gives what it calls `result`."""
    app = squall.App("bucket")

    @app.function(volumes={"/bucket": bucket}, serialized=True, name="run", retries=0)
    def run(code: str) -> object:
        import os

        place: dict[str, object] = {"os": os}
        exec(code, place)
        return place.get("result")

    return app


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3()
    server.make_bucket("things")
    server.bucket("things").probe()  # its client keeps a few descriptors from its first use on
    yield server
    server.stop()


def test_a_bucket_is_a_directory_and_its_keys_are_nowhere(data: Path, s3: S3) -> None:
    bucket = s3.bucket("things")
    bucket.put("data/there.txt", b"hello")
    bucket.put("else.txt", b"not below the prefix")
    planted = "planted-bucket-key-5b1d"
    keys = squall.Secret.from_dict({"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": planted})
    with bucket_app(squall.CloudBucketMount("things", s3.url, key_prefix="data/", secret=keys)).run() as app:
        run = app.registered_functions["run"]
        assert run.remote("result = os.listdir('/bucket'), open('/bucket/there.txt').read()") == (["there.txt"], "hello")
        run.remote("os.makedirs('/bucket/a/b'); open('/bucket/a/b/new', 'w').write('from a container')")
        assert bucket.get("data/a/b/new") == b"from a container"
        run.remote("os.rename('/bucket/a/b/new', '/bucket/moved'); os.unlink('/bucket/there.txt')")
        assert bucket.get("data/moved") == b"from a container"
        assert run.remote("result = sorted(os.listdir('/bucket')), 'AWS_SECRET_ACCESS_KEY' in os.environ") == (["a", "moved"], False)
        shown = subprocess.run(["ps", "axwwe", "-o", "args"], capture_output=True, check=True).stdout
        assert b"s3fs things" in shown
        assert planted.encode() not in shown
        grep = ["grep", "-rlaF", "--exclude-dir=cache", "--exclude-dir=.buckets", planted, str(data), "/run/squall"]
        found = subprocess.run(grep, capture_output=True, check=False)
        assert found.stdout == b""
    with bucket_app(squall.CloudBucketMount("things", s3.url, secret=keys, read_only=True)).run() as app:
        run = app.registered_functions["run"]
        assert run.remote("result = sorted(os.listdir('/bucket'))") == ["data", "else.txt"]
        with pytest.raises(OSError, match="Read-only"):
            run.remote("open('/bucket/x', 'w')")


def test_buckets_that_can_not_be_had_say_why(data: Path, s3: S3) -> None:
    keys = squall.Secret.from_dict({"AWS_ACCESS_KEY_ID": "wrong", "AWS_SECRET_ACCESS_KEY": "wrong-key"})
    closed = S3(closed=True)
    try:
        for bucket, error, says in (
            (squall.CloudBucketMount("things", closed.url, secret=keys), PermissionDeniedError, "can't be read with these keys"),
            (squall.CloudBucketMount("none", s3.url, secret=keys), NotFoundError, "there is no bucket none"),
            (squall.CloudBucketMount("things", "http://127.0.0.1:9", secret=keys), ConnectionError, "does not answer"),
            (squall.CloudBucketMount("things", s3.url, secret=squall.Secret.from_dict({"A": "1"})), InvalidError, "AWS_ACCESS_KEY_ID"),
        ):
            with bucket_app(bucket).run() as app, pytest.raises(error, match=says) as caught:
                app.registered_functions["run"].remote("")
            assert "wrong-key" not in str(caught.value)
    finally:
        closed.stop()
