"""What blob directories promise: verified content, atomic appearance, and no way out of the directory."""

import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squall.model.errors import ConnectionError, DataLossError, InvalidError, NotFoundError, PermissionDeniedError, ResourceExhaustedError
from squall.store.beneath import sync_file_system
from squall.store.blobs import BlobDirectory
from squall.store.object_store import open_url, s3_store
from squall.store.remote_blobs import RemoteBlobs
from support.s3 import S3


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    return BlobDirectory(tmp_path / "blobs")


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 3_000_000])
def test_what_was_put_is_read(blobs: BlobDirectory, data: bytes) -> None:
    blobs.put(sha(data), data)
    assert blobs.path(sha(data)).read_bytes() == data


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.binary(max_size=40), max_size=8))
def test_missing_are_exactly_those_not_put(tmp_path_factory: pytest.TempPathFactory, stored: list[bytes], asked: list[bytes]) -> None:
    blobs = BlobDirectory(tmp_path_factory.mktemp("blobs"))
    for data in stored:
        blobs.put(sha(data), data)
    expected = tuple(dict.fromkeys(sha(data) for data in asked if data not in stored))
    assert blobs.missing(sha(data) for data in asked) == expected


def test_wrong_content_is_refused_and_leaves_nothing(blobs: BlobDirectory, tmp_path: Path) -> None:
    with pytest.raises(DataLossError):
        blobs.put(sha(b"right"), b"wrong")
    assert blobs.missing([sha(b"right")]) == (sha(b"right"),)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_many_at_once_are_all_there_or_none(blobs: BlobDirectory, tmp_path: Path) -> None:
    contents = {sha(data): data for data in (b"%d" % number for number in range(50))}
    with pytest.raises(DataLossError):
        blobs.put_all({**contents, sha(b"right"): b"wrong"})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    blobs.put_all(contents)
    blobs.put_all(contents)
    assert {digest: blobs.path(digest).read_bytes() for digest in contents} == contents
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 50


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "/" + "a" * 63, "a" * 31 + "/" + "a" * 32])
def test_only_digests_become_paths(blobs: BlobDirectory, digest: str) -> None:
    for use in (blobs.path, lambda name: blobs.missing([name]), lambda name: blobs.put(name, b"")):
        with pytest.raises(InvalidError):
            use(digest)


def test_unknown_blob(blobs: BlobDirectory) -> None:
    with pytest.raises(NotFoundError, match=sha(b"gone")[:12]):
        blobs.path(sha(b"gone"))


def test_put_again_changes_nothing(blobs: BlobDirectory) -> None:
    blobs.put(sha(b"same"), b"same")
    before = blobs.path(sha(b"same")).stat()
    blobs.put(sha(b"same"), b"same")
    after = blobs.path(sha(b"same")).stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)


@pytest.mark.parametrize("count", [1, 40])
def test_contents_are_on_disk_before_their_names_and_names_before_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A power loss takes what was not synced; so it is looked at which system calls there are, and in which order."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        fsync(handle)
        done.append(f"sync {os.readlink(f'/proc/self/fd/{handle}').removeprefix(str(tmp_path))}")

    def all_synced(handle: int) -> None:
        sync_file_system(handle)
        done.append("sync all")

    def named(old: str, new: Path) -> None:
        replace(old, new)
        done.append(f"name {new.parent.name}")

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.replace", named)
    monkeypatch.setattr("squall.store.blobs.sync_file_system", all_synced)
    contents = [bytes([number]) for number in range(count)]
    BlobDirectory(tmp_path).put_all({sha(content): content for content in contents})
    if count == 1:
        folder = sha(contents[0])[:2]
        assert re.fullmatch(rf"sync /{folder}/\.tmp-\w+", done[0])
        assert (done[1], set(done[2:])) == (f"name {folder}", {"sync ", f"sync /{folder}"})
    else:
        assert done == ["sync all", *(f"name {sha(content)[:2]}" for content in contents), "sync all"]


def test_collecting_takes_what_is_old_and_not_needed(blobs: BlobDirectory) -> None:
    names = {}
    for word in (b"needed", b"asked", b"put", b"old"):
        names[word] = sha(word)
        blobs.put(sha(word), word)
        os.utime(blobs.path(sha(word)), (100.0, 100.0))
    unfinished = blobs.path(names[b"old"]).with_name(".tmp-left")
    unfinished.touch()
    os.utime(unfinished, (100.0, 100.0))
    assert blobs.missing([names[b"asked"]]) == ()
    blobs.put(names[b"put"], b"put")
    expected = [(names[b"old"], 3, 100.0)]
    assert blobs.collect({names[b"needed"]}, 101.0, dry=True) == expected
    assert unfinished.exists()
    assert blobs.collect({names[b"needed"]}, 100.0, dry=False) == []
    assert blobs.collect({names[b"needed"]}, 101.0, dry=False) == expected
    assert not unfinished.exists()
    assert blobs.missing(names.values()) == (names[b"old"],)


def test_many_writers_of_one_blob(blobs: BlobDirectory, tmp_path: Path) -> None:
    data = os.urandom(200_000)
    start = threading.Barrier(8)

    def write() -> None:
        start.wait()
        blobs.put(sha(data), data)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blobs.path(sha(data)).read_bytes() == data
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


@pytest.mark.root
def test_full_disk_is_said(tmp_path: Path) -> None:
    import subprocess

    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        blobs = BlobDirectory(disk / "blobs")
        data = os.urandom(500_000)
        with pytest.raises(ResourceExhaustedError, match="No space left"):
            blobs.put(sha(data), data)
        many = {sha(data): data for data in (os.urandom(20_000) for _ in range(30))}
        with pytest.raises(ResourceExhaustedError, match="No space left"):
            blobs.put_all(many)
        assert [path for path in disk.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_damaged_blob_is_found_when_it_is_read_and_asked_for_again(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"whole").hexdigest()
    BlobDirectory(tmp_path).put(digest, b"whole")
    (tmp_path / digest[:2] / digest[2:]).write_bytes(b"broke")
    blobs = BlobDirectory(tmp_path)
    with pytest.raises(DataLossError, match="run the program again"):
        blobs.path(digest)
    assert blobs.missing([digest]) == (digest,)
    blobs.put(digest, b"whole")
    assert blobs.path(digest).read_bytes() == b"whole"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3()
    server.make_bucket("blobs")
    # Its client keeps a few descriptors from its first use on.
    s3_store("blobs", endpoint=server.url, region="", key="any", secret="any", token="", path_style=True).probe()
    yield server
    server.stop()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_blobs_in_an_object_store_outlive_the_directory_and_its_damages(s3: S3, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = {"AWS_ENDPOINT_URL": s3.url, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
    for name, value in (aws if scheme == "s3" else {"GOOGLE_SERVICE_ACCOUNT_KEY": s3.service_account()}).items():
        monkeypatch.setenv(name, value)
    store = open_url(f"{scheme}://blobs/kept-{scheme}")
    store.probe()
    contents = {hashlib.sha256(bytes([n])).hexdigest(): bytes([n]) for n in range(20)}
    one, *others = contents
    RemoteBlobs(tmp_path / "first", store).put_all(contents)
    unknown = hashlib.sha256(b"unknown").hexdigest()
    fresh = RemoteBlobs(tmp_path / "second", store)
    assert fresh.missing([*contents, unknown]) == (unknown,)
    assert fresh.path(one).read_bytes() == contents[one]
    fresh.path(one).write_bytes(b"broken")
    assert RemoteBlobs(tmp_path / "second", store).path(one).read_bytes() == contents[one]
    assert RemoteBlobs(tmp_path / "third", store).path(one).read_bytes() == contents[one]
    with pytest.raises(NotFoundError):
        fresh.path(unknown)
    # Damaged in the store: nothing wrong comes back.
    store.put(others[0], b"damaged")
    last = RemoteBlobs(tmp_path / "fourth", store)
    assert last.missing([others[0]]) == (others[0],)
    gone = last.collect({one}, time.time() + 60, dry=True)
    assert len(gone) == 19
    assert len(list(store.listing())) == 20
    last.collect({one}, time.time() + 60, dry=False)
    assert [key for key, _, _ in store.listing()] == [one]


def test_stores_that_refuse_or_do_not_answer(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        s3_store("nowhere", endpoint=s3.url, region="", key="any", secret="any", token="", path_style=True).probe()
    with pytest.raises(ConnectionError):
        s3_store("blobs", endpoint="http://127.0.0.1:9", region="", key="any", secret="any", token="", path_style=True).probe()
    with pytest.raises(InvalidError, match="s3://BUCKET"):
        open_url("ftp://blobs")
    closed = S3(closed=True)
    try:
        with pytest.raises(PermissionDeniedError):
            s3_store("blobs", endpoint=closed.url, region="", key="wrong", secret="wrong", token="", path_style=True).probe()
    finally:
        closed.stop()
