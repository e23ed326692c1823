"""Nobody but containers has the containers' ids: what other files of this machine say about them, and what `useradd` then does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from squall.runtime.ids import ALL, DEFAULT_IDS
from squall.runtime.subordinate import NAME, conflicts, mapped, record, recorded


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    for name in ("subuid", "subgid", "passwd", "group", "shadow", "gshadow"):
        (folder / name).touch()
    return folder


def test_what_debian_gives_by_itself_is_no_conflict(etc: Path) -> None:
    (etc / "subuid").write_text("first:100000:65536\nsecond:165536:65536\n")
    (etc / "login.defs").write_text("SUB_UID_MIN\t\t   100000\nSUB_UID_MAX\t\t600100000\nSUB_GID_MIN 100000\nSUB_GID_MAX 600100000\n#SUB_UID_MAX 4000000000\n")
    assert conflicts(etc) == []


@pytest.mark.parametrize(("first", "count"), [(ALL.first, 1), (ALL.end - 1, 1), (ALL.first - 1, 2), (0, 1 << 31), (DEFAULT_IDS.first + 1000, 65_536)])
@pytest.mark.parametrize("name", ["subuid", "subgid"])
def test_a_range_of_somebody_is_a_conflict(etc: Path, name: str, first: int, count: int) -> None:
    (etc / name).write_text(f"broken line\nsomebody:{first}:{count}\n")
    (said,) = conflicts(etc)
    assert "somebody" in said
    assert str(etc / name) in said


@pytest.mark.parametrize(("first", "count"), [(ALL.end, 5), (ALL.first - 5, 5)])
def test_a_range_beside_it_is_none(etc: Path, first: int, count: int) -> None:
    (etc / "subuid").write_text(f"somebody:{first}:{count}\n")
    assert conflicts(etc) == []


def test_what_useradd_may_give_is_a_conflict(etc: Path) -> None:
    (etc / "login.defs").write_text("SUB_UID_MIN 100000\nSUB_UID_MAX 4000000000\n")
    (said,) = conflicts(etc)
    assert "SUB_UID_MAX=4000000000" in said


def test_the_entry_is_added_once_and_others_stay(etc: Path) -> None:
    (etc / "subuid").write_text("first:100000:65536\n")
    os.chmod(etc / "subuid", 0o640)
    record(etc)
    record(etc)
    assert (etc / "subuid").read_text() == f"first:100000:65536\n{NAME}:{ALL.first}:{ALL.count}\n"
    assert (etc / "subuid").stat().st_mode & 0o777 == 0o640
    assert (etc / "subgid").read_text() == f"{NAME}:{ALL.first}:{ALL.count}\n"
    assert recorded(etc)
    assert conflicts(etc) == []
    assert sorted(path.name for path in etc.iterdir()) == ["group", "gshadow", "passwd", "shadow", "subgid", "subuid"]


def test_an_entry_of_another_range_is_replaced(etc: Path) -> None:
    (etc / "subuid").write_text(f"{NAME}:5:6\nfirst:100000:65536\n")
    assert not recorded(etc)
    record(etc)
    assert (etc / "subuid").read_text() == f"first:100000:65536\n{NAME}:{ALL.first}:{ALL.count}\n"


def test_files_that_are_not_there_are_not_made(etc: Path) -> None:
    """Without them useradd gives nobody any; with them it would begin to."""
    (etc / "subuid").unlink()
    (etc / "subgid").unlink()
    assert recorded(etc)
    record(etc)
    assert not (etc / "subuid").exists()


def test_who_edits_the_file_is_not_disturbed(etc: Path, caplog: pytest.LogCaptureFixture) -> None:
    (etc / "subuid.lock").write_bytes(f"{os.getpid()}\0".encode())
    record(etc)
    assert (etc / "subuid").read_text() == ""
    assert "could not be recorded" in caplog.text
    (etc / "subuid.lock").write_bytes(b"4194305\0")  # of a process that is gone: beyond the largest pid
    record(etc)
    assert recorded(etc)


@pytest.mark.root
@pytest.mark.skipif(shutil.which("useradd") is None, reason="no useradd")
def test_useradd_keeps_off(etc: Path) -> None:
    """Told to give ranges from the containers' first id on, it would give that one; with the entry it gives what comes after."""
    prefix = etc.parent

    def add(user: str) -> list[str]:
        more = [f"SUB_{kind}_{end}={value}" for kind in ("UID", "GID") for end, value in (("MIN", ALL.first), ("MAX", ALL.end + 200_000))]
        keys = [word for setting in more for word in ("-K", setting)]
        subprocess.run(["useradd", "--prefix", str(prefix), *keys, user], check=True, capture_output=True, text=True)
        return [line for line in (etc / "subuid").read_text().splitlines() if line.startswith(f"{user}:")]

    assert add("before") == [f"before:{ALL.first}:65536"]
    assert conflicts(etc) != []
    (etc / "subuid").write_text("")
    (etc / "subgid").write_text("")
    record(etc)
    (entry,) = add("after")
    assert int(entry.split(":")[1]) >= ALL.end
    assert conflicts(etc) == []


def test_this_process_may_have_them() -> None:
    assert mapped()
