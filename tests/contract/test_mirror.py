"""Snapshots, restores and strict mounts killed at every step: each file is one of its two contents, and doing it again finishes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from squall.control.objects.working_copies import View
from squall.exception import ConflictError
from squall.store.mirror import scan
from squall.store.snapshots import Snapshots

#: Runs one thing; the process is killed when it has renamed so many files.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from squall.control.objects.working_copies import View
from squall.store.snapshots import Snapshots
base, what, kill_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
real, done = os.rename, 0
def rename(*args, **kwargs):
    global done
    if done == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    done += 1
    real(*args, **kwargs)
snapshots = Snapshots(base / "files", base / "staging", base / "kept", base / "staging")
if what == "commit":
    view = View(base / "files", base / "staging", base / "view", base / "staging")
    view.make()
    for number in range(8):
        (view.place / f"f{number}").write_text("new" * 1000)
    os.rename = rename
    view.commit()
else:
    os.rename = rename
    if what == "take":
        snapshots.take("sn-" + "2" * 32, 2.0, "")
    else:
        snapshots.restore("sn-" + "1" * 32)
"""


def make(base: Path) -> Snapshots:
    for name in ("files", "staging"):
        (base / name).mkdir(parents=True)
    for number in range(8):
        (base / "files" / f"f{number}").write_text("old" * 1000)
    return Snapshots(base / "files", base / "staging", base / "kept", base / "staging")


def contents(base: Path) -> set[str]:
    return {path.read_text() for path in (base / "files").iterdir()}


def run(base: Path, what: str, kill_at: int) -> int:
    return subprocess.run([sys.executable, "-c", PROGRAM, str(base), what, str(kill_at)]).returncode


@pytest.mark.parametrize("what", ["commit", "take", "restore"])
def test_killed_at_any_step(tmp_path: Path, what: str) -> None:
    kills = 0
    for kill_at in (0, 1, 4, 8, 20):
        base = tmp_path / str(kill_at)
        snapshots = make(base)
        if what == "restore":
            snapshots.take("sn-" + "1" * 32, 1.0, "")
            for number in range(8):
                (base / "files" / f"f{number}").write_text("new" * 1000)
        killed = run(base, what, kill_at) == -signal.SIGKILL
        kills += killed
        assert contents(base) <= {"old" * 1000, "new" * 1000}
        assert len(list((base / "files").iterdir())) == 8
        if what == "take":
            assert [kept.files for kept in snapshots.history()] == ([] if killed else [8])
            assert snapshots.take("sn-" + "3" * 32, 3.0, "").files == 8
        elif what == "restore":
            snapshots.restore("sn-" + "1" * 32)
            assert contents(base) == {"old" * 1000}
        elif not killed:
            assert contents(base) == {"new" * 1000}
    assert 3 <= kills <= 4


def test_kinds_that_change_into_each_other_and_odd_names(tmp_path: Path) -> None:
    snapshots = make(tmp_path)
    files = tmp_path / "files"
    odd = os.fsdecode(b"no utf-8 \xff\n")
    (files / "dir" / "deep").mkdir(parents=True)
    (files / "dir" / "deep" / odd).write_bytes(b"1")
    os.symlink("/etc/passwd", files / "out")
    os.mkfifo(files / "pipe")
    (files / "mode").write_bytes(b"x")
    (files / "mode").chmod(0o751)
    snapshots.take("sn-" + "1" * 32, 1.0, "")
    before = {path: (mark.mode, mark.size, mark.goal) for path, mark in scan(files).items()}
    (files / "pipe").unlink()
    (files / "out").unlink()
    (files / "out").mkdir()
    (files / "out" / "x").write_bytes(b"x")
    (files / "f0").unlink()
    (files / "f0").mkdir()
    subprocess.run(["rm", "-r", str(files / "dir")], check=True)
    os.symlink("nowhere", files / "dir")
    snapshots.restore("sn-" + "1" * 32)
    assert {path: (mark.mode, mark.size, mark.goal) for path, mark in scan(files).items()} == before


def test_two_strict_copies_of_one_volume(tmp_path: Path) -> None:
    make(tmp_path)
    one, other = (View(tmp_path / "files", tmp_path / "staging", tmp_path / name, tmp_path / "staging") for name in ("one", "other"))
    one.make()
    other.make()
    (one.place / "f0").write_text("one")
    (other.place / "f1").write_text("other")
    (other.place / "f2").unlink()
    one.commit()
    other.commit()
    assert ((tmp_path / "files" / "f0").read_text(), (tmp_path / "files" / "f1").read_text()) == ("one", "other")  # neither takes back what the other did
    with (one.place / "f5").open(), pytest.raises(ConflictError, match="f5"):
        one.reload()
    one.reload()
    assert (one.place / "f1").read_text() == "other"
    assert not (one.place / "f2").exists()
    assert scan(one.place).keys() == scan(tmp_path / "files").keys()
