"""A volume's files, as the server reaches them: nothing leads out, nothing is half there, and whatever user code left lying about is survived."""

import contextlib
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squall.model.errors import AlreadyExistsError, ConflictError, DataLossError, Error, InvalidError, NotFoundError, ResourceExhaustedError
from squall.store import beneath
from squall.store.beneath import clean
from squall.store.tree import Tree
from squall.wire.state import NewFile


@pytest.fixture(params=["kernel", "walk"])
def resolving(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "kernel" and not beneath.KERNEL_RESOLVES:
        pytest.skip("this kernel has no openat2")
    monkeypatch.setattr(beneath, "KERNEL_RESOLVES", request.param == "kernel")
    return str(request.param)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("of the host")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def tree(tmp_path: Path, root: Path, resolving: str) -> Tree:
    (tmp_path / "staging").mkdir()
    return Tree(root, tmp_path / "staging", None)


def names(tree: Tree, path: str = "/", *, recursive: bool = True) -> list[str]:
    return [entry.path for batch in tree.entries(path, recursive=recursive) for entry in batch]


def put(tree: Tree, path: str, data: bytes = b"data", *, force: bool = False, mode: int | None = None) -> None:
    tree.write([NewFile(path, data, mode)], force=force)


# --- reaching out ---

ESCAPES = ["../outside/secret", "/../outside/secret", "a/../../outside/secret", "..", "a/.."]


@pytest.mark.parametrize("path", ESCAPES)
def test_two_dots_are_refused_everywhere(tree: Tree, outside: Path, path: str) -> None:
    (tree._root / "a").mkdir()
    for attempt in (
        lambda: names(tree, path),
        lambda: tree.read(path, 0, 10, ""),
        lambda: put(tree, path, force=True),
        lambda: tree.upload("u1", path, 0, b"x", last=True, mode=None, digest="", force=True),
        lambda: tree.copy([path], "b", recursive=True),
        lambda: tree.copy(["a"], path, recursive=True),
        lambda: tree.remove([path], recursive=True),
    ):
        with pytest.raises(InvalidError, match=r"\.\."):
            attempt()
    assert (outside / "secret").read_text() == "of the host"


@pytest.mark.parametrize("absolute", [True, False])
def test_links_out_of_the_volume_lead_nowhere(tree: Tree, root: Path, outside: Path, absolute: bool) -> None:
    goal = str(outside) if absolute else "../outside"
    (root / "folder").symlink_to(goal)
    (root / "file").symlink_to(f"{goal}/secret")
    (root / "own").write_text("own")
    for attempt in (
        lambda: tree.read("file", 0, 10, ""),
        lambda: tree.read("folder/secret", 0, 10, ""),
        lambda: names(tree, "folder"),
        lambda: names(tree, "folder/"),
        lambda: put(tree, "folder/new", force=True),
        lambda: tree.copy(["folder/secret"], "stolen", recursive=True),
        lambda: tree.copy(["own"], "folder/own", recursive=True),
        lambda: tree.remove(["folder/secret"], recursive=True),
    ):
        with pytest.raises(InvalidError, match="leads out of the volume"):
            attempt()
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert sorted(names(tree)) == ["file", "folder", "own"]  # listed as links, and not entered


def test_writing_over_a_link_replaces_the_link_and_not_what_it_points_to(tree: Tree, root: Path, outside: Path) -> None:
    (root / "file").symlink_to(outside / "secret")
    put(tree, "file", b"new", force=True)
    assert (outside / "secret").read_text() == "of the host"
    assert not (root / "file").is_symlink()
    assert (root / "file").read_bytes() == b"new"


def test_removing_a_link_to_a_directory_removes_the_link(tree: Tree, root: Path, outside: Path) -> None:
    (root / "folder").symlink_to(outside)
    tree.remove(["folder"], recursive=True)
    assert not (root / "folder").is_symlink()
    assert (outside / "secret").exists()


def test_a_tree_with_links_out_is_copied_and_removed_without_following_them(tree: Tree, root: Path, outside: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "out").symlink_to(outside)
    (root / "a" / "file").write_text("1")
    tree.copy(["a"], "b", recursive=True)
    assert (root / "b" / "out").is_symlink()
    tree.remove(["a", "b"], recursive=True)
    assert (outside / "secret").exists()
    assert names(tree) == []


def test_a_directory_exchanged_for_a_link_all_the_time_never_lets_anything_out(tree: Tree, root: Path, outside: Path) -> None:
    """The race that a check before the use would lose."""
    (root / "real").mkdir()
    (root / "real" / "secret").write_text("own")
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):  # the other side may have made a directory d meanwhile
                (root / "d").symlink_to(outside)
                os.unlink(root / "d")
                os.rename(root / "real", root / "d")
                os.rename(root / "d", root / "real")
            if (root / "real").is_dir() and (root / "d").is_dir() and not (root / "d").is_symlink():
                shutil.rmtree(root / "d", ignore_errors=True)

    thread = threading.Thread(target=exchange)
    thread.start()
    try:
        for number in range(2_000):
            with contextlib.suppress(InvalidError, NotFoundError):
                assert tree.read("d/secret", 0, 100, "").data == b"own"
            if number % 20 == 0:
                with contextlib.suppress(InvalidError, NotFoundError):
                    put(tree, "d/new", force=True)
    finally:
        stop.set()
        thread.join()
    assert [path.name for path in outside.iterdir()] == ["secret"]


# --- odd things ---


@pytest.mark.parametrize("name", ["line\nfeed", "ünïcødé-日本-🎈", " spaces ", "-rf", "'quotes\"", "a" * 255, "tab\t", ".hidden", "..."])
def test_odd_names_come_back_as_they_went(tree: Tree, name: str) -> None:
    put(tree, f"folder/{name}", b"content")
    assert names(tree, "folder", recursive=False) == [f"folder/{name}"]
    assert tree.read(f"folder/{name}", 0, 100, "").data == b"content"
    tree.copy([f"folder/{name}"], "copy", recursive=False)
    tree.remove([f"folder/{name}"], recursive=False)
    assert names(tree) == ["copy", "folder"]


@pytest.mark.parametrize("path", ["a\0b", "a" * 256, "x/" * 3000, "\ud800"])
def test_names_that_no_file_system_takes_are_refused(tree: Tree, path: str) -> None:
    for attempt in (lambda: put(tree, path), lambda: tree.read(path, 0, 1, ""), lambda: names(tree, path)):
        with pytest.raises(InvalidError):
            attempt()


def test_a_name_that_is_no_utf8_is_shown_and_hides_nothing(tree: Tree, root: Path) -> None:
    open(os.fsencode(root) + b"/\xff\xfe", "w").close()
    (root / "plain").touch()
    assert names(tree) == ["plain", "\\xff\\xfe"] or names(tree) == ["\\xff\\xfe", "plain"]


def test_what_is_no_plain_file_is_not_read(tree: Tree, root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "folder").mkdir()
    with pytest.raises(InvalidError, match="not a plain file"):
        tree.read("pipe", 0, 1, "")  # and it does not wait for a writer
    with pytest.raises(InvalidError, match="directory"):
        tree.read("folder", 0, 1, "")
    with pytest.raises(InvalidError, match="not a plain file"):
        tree.copy(["pipe"], "b", recursive=True)


def test_paths_through_files_and_to_nothing(tree: Tree) -> None:
    put(tree, "file")
    for attempt in (lambda: put(tree, "file/below"), lambda: tree.read("file/below", 0, 1, "")):
        with pytest.raises(InvalidError, match="not a directory"):
            attempt()
    for missing in (lambda: tree.read("none", 0, 1, ""), lambda: names(tree, "none"), lambda: tree.remove(["none"], recursive=True)):
        with pytest.raises(NotFoundError, match="none"):
            missing()
    with pytest.raises(InvalidError, match="volume itself"):
        tree.remove(["/"], recursive=True)


@given(st.text(max_size=40))
def test_a_cleaned_path_stays_below(path: str) -> None:
    try:
        cleaned = clean(path)
    except InvalidError:
        return
    assert not cleaned.startswith("/")
    assert ".." not in cleaned.split("/")
    assert clean(cleaned) == cleaned


# --- writing ---


def test_without_force_what_is_there_stays(tree: Tree) -> None:
    put(tree, "a", b"old")
    with pytest.raises(AlreadyExistsError):
        tree.check_free(["b", "a"])
    with pytest.raises(AlreadyExistsError):
        put(tree, "a", b"new")
    assert tree.read("a", 0, 10, "").data == b"old"
    put(tree, "a", b"new", force=True)
    assert tree.read("a", 0, 10, "").data == b"new"
    (tree._root / "folder" / "below").mkdir(parents=True)
    with pytest.raises(InvalidError, match="directory"):
        put(tree, "folder", force=True)


def test_modes_are_kept_and_never_give_rights_away(tree: Tree, root: Path) -> None:
    put(tree, "program", mode=0o755)
    put(tree, "plain")
    put(tree, "setuid", mode=0o4755)
    modes = {name: stat.S_IMODE((root / name).stat().st_mode) for name in ("program", "plain", "setuid")}
    assert modes == {"program": 0o755, "plain": 0o644, "setuid": 0o755}


def test_an_upload_in_parts_appears_with_its_last(tree: Tree) -> None:
    import hashlib

    digest = hashlib.sha256(b"one two").hexdigest()
    assert tree.upload("u1", "big", 0, b"one ", last=False, mode=None, digest="", force=False) == 4
    assert names(tree) == []
    with pytest.raises(ConflictError, match="4 bytes"):
        tree.upload("u1", "big", 9, b"x", last=True, mode=None, digest="", force=False)
    assert tree.upload("u1", "big", 4, b"two", last=True, mode=None, digest=digest, force=False) == 7
    assert tree.read("big", 0, 100, "").data == b"one two"
    with pytest.raises(DataLossError):
        tree.upload("u2", "other", 0, b"x", last=True, mode=None, digest=digest, force=False)
    assert names(tree) == ["big"]
    assert list(tree._staging.iterdir()) == []
    with pytest.raises(InvalidError):
        tree.upload("../x", "other", 0, b"x", last=True, mode=None, digest="", force=False)


def test_a_file_that_is_changed_while_it_is_read_is_said(tree: Tree) -> None:
    put(tree, "a", b"x" * 100)
    first = tree.read("a", 0, 50, "")
    put(tree, "a", b"y" * 100, force=True)
    with pytest.raises(ConflictError, match="changed"):
        tree.read("a", 50, 50, first.version)


def test_two_writers_of_one_file_leave_one_whole_content(tree: Tree) -> None:
    contents = [bytes([letter]) * 200_000 for letter in b"abcd"]

    def write(data: bytes) -> None:
        for _ in range(30):
            put(tree, "same", data, force=True)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        try:
            seen.add(tree.read("same", 0, 1 << 20, "").data)
        except NotFoundError:
            continue
    for thread in threads:
        thread.join()
    assert seen <= set(contents)
    assert list(tree._staging.iterdir()) == []


@pytest.mark.root
def test_a_full_disk_is_said_and_leaves_nothing_half_written(tmp_path: Path, resolving: str) -> None:
    import subprocess

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "squall-test", str(tmp_path)], check=True)
    try:
        (tmp_path / "root").mkdir()
        (tmp_path / "staging").mkdir()
        tree = Tree(tmp_path / "root", tmp_path / "staging", None)
        with pytest.raises(ResourceExhaustedError, match="no room"):
            tree.write([NewFile("small", b"1"), NewFile("large", b"x" * (2 << 20))], force=False)
        assert names(tree) == ["small"]
        put(tree, "after", b"1")
        tree.commit()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_copies_like_cp(tree: Tree) -> None:
    put(tree, "d/a", b"1", mode=0o600)
    put(tree, "b", b"2")
    tree.copy(["b"], "c", recursive=False)
    tree.copy(["b", "d/a"], "into", recursive=False)
    tree.copy(["b"], "d", recursive=False)
    tree.copy(["d"], "e", recursive=True)
    with pytest.raises(InvalidError, match="recursive"):
        tree.copy(["d"], "f", recursive=False)
    with pytest.raises(InvalidError, match="itself"):
        tree.copy(["d"], "d/below", recursive=True)
    assert names(tree) == ["b", "c", "d", "e", "into", "d/a", "d/b", "e/a", "e/b", "into/a", "into/b"]
    assert stat.S_IMODE((tree._root / "e" / "a").stat().st_mode) == 0o600


def test_large_directories_come_in_batches(tree: Tree, root: Path) -> None:
    (root / "many").mkdir()
    for number in range(12_000):
        (root / "many" / f"{number:05}").touch()
    batches = list(tree.entries("many", recursive=False))
    assert [len(batch) for batch in batches] == [10_000, 2_000]
    assert issubclass(NotFoundError, Error)
