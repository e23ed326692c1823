"""Data that an earlier version left to other ids is given to those of today: everything, with its rights, whenever the work was killed."""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from squall.runtime.ids import DEFAULT_IDS, EARLIER_IDS
from squall.runtime.reown import MARK, settle, settled

pytestmark = pytest.mark.root
OLD, NEW = EARLIER_IDS.first, DEFAULT_IDS.first
#: CAP_NET_RAW, for the root of a user namespace (struct vfs_ns_cap_data).
CAPABILITY = struct.pack("<6I", 0x03000001, 1 << 13, 0, 0, 0, OLD)


def make_tree(root: Path, folders: int = 3) -> None:
    for number in range(folders):
        folder = root / f"layer{number}" / "fs"
        folder.mkdir(parents=True)
        (folder / "plain").write_text("x")
        os.chown(folder / "plain", OLD + 33, OLD + 44)
        (folder / "plain").chmod(0o600)
        (folder / "su").write_text("x")
        os.chown(folder / "su", OLD, OLD)
        (folder / "su").chmod(0o4755)
        (folder / "ping").write_text("x")
        os.chown(folder / "ping", OLD, OLD)
        os.setxattr(folder / "ping", "security.capability", CAPABILITY)
        (folder / "mail").mkdir()
        os.chown(folder / "mail", OLD, OLD + 8)
        (folder / "mail").chmod(0o2775)
        (folder / "link").symlink_to("/etc/passwd")
        os.lchown(folder / "link", OLD, OLD)
        os.link(folder / "plain", folder / "second name")
        os.chown(folder, OLD, OLD)


def check_tree(root: Path) -> None:
    for folder in root.glob("*/fs"):
        found = {name: os.lstat(folder / name) for name in os.listdir(folder)}
        assert (found["plain"].st_uid, found["plain"].st_gid, found["plain"].st_mode & 0o7777) == (NEW + 33, NEW + 44, 0o600)
        assert found["plain"].st_ino == found["second name"].st_ino
        assert (found["su"].st_uid, found["su"].st_mode & 0o7777) == (NEW, 0o4755)
        assert (found["mail"].st_uid, found["mail"].st_gid, found["mail"].st_mode & 0o7777) == (NEW, NEW + 8, 0o2775)
        assert found["link"].st_uid == NEW
        assert os.getxattr(folder / "ping", "security.capability") == CAPABILITY[:20] + struct.pack("<I", NEW)
        assert folder.stat().st_uid == NEW


def test_a_tree_is_moved_once(tmp_path: Path) -> None:
    make_tree(tmp_path)
    passwd = os.stat("/etc/passwd").st_uid
    assert not settled(tmp_path)
    assert settle(tmp_path) == 3 * 6
    check_tree(tmp_path)
    assert settled(tmp_path)
    assert os.stat("/etc/passwd").st_uid == passwd
    assert (tmp_path / "layer0").stat().st_uid == 0  # what is the server's stays so
    assert settle(tmp_path) == 0


def test_a_new_tree_is_marked_at_once(tmp_path: Path) -> None:
    assert settle(tmp_path / "new") == 0
    assert settled(tmp_path / "new")


def test_a_tree_reached_by_a_link_is_moved(tmp_path: Path) -> None:
    make_tree(tmp_path / "there")
    (tmp_path / "link").symlink_to("there")
    assert settle(tmp_path / "link") > 0
    check_tree(tmp_path / "there")


def test_whatever_it_was_killed_at_the_next_one_finishes(tmp_path: Path) -> None:
    """The work is killed after ever longer times, each time with another tree, and finished by a second run."""
    code = "import sys, pathlib, squall.runtime.reown as it; print('up', flush=True); sys.stdin.read(1); it.settle(pathlib.Path(sys.argv[1]))"
    killed = 0
    for attempt in range(12):
        root = tmp_path / str(attempt)
        root.mkdir()
        make_tree(root, 40)
        with subprocess.Popen([sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as work:
            assert work.stdin is not None
            assert work.stdout is not None
            work.stdout.readline()
            work.stdin.write(b"x")
            work.stdin.flush()
            time.sleep(attempt * 0.004)  # not a wait for anything: where the kill falls is what differs
            work.send_signal(signal.SIGKILL)
        killed += not (root / MARK).exists()
        settle(root)
        check_tree(root)
        assert not (root / ".reown").exists()
    assert killed
