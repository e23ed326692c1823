"""The leak checks themselves: each kind of leak is found, and the end of it is seen."""

import os
import subprocess
from pathlib import Path

import pytest

from support import leaks


def test_a_process_that_outlives_its_parent_is_found() -> None:
    marker = os.environ[leaks.MARKER]
    before = leaks.snapshot(marker)
    with subprocess.Popen(["sh", "-c", "sleep 600 & echo $!"], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        orphan = int(shell.stdout.readline())
        try:
            left = leaks.wait_clean(before, marker, timeout_s=0)
        finally:
            os.kill(orphan, 9)
        assert any(name.startswith(f"{orphan} ") for name in left["process"])
    assert "process" not in leaks.wait_clean(before, marker, timeout_s=5)


def test_an_open_file_is_found(tmp_path: Path) -> None:
    before = leaks.descriptors()
    with (tmp_path / "file").open("w"):
        assert str(tmp_path / "file") in set(leaks.descriptors().values()) - set(before.values())
    assert leaks.descriptors() == before


@pytest.mark.root
def test_a_mount_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(leaks.SHARED, raising=False)
    marker = os.environ[leaks.MARKER]
    before = leaks.snapshot(marker)
    subprocess.run(["mount", "-t", "tmpfs", "squall-leak", str(tmp_path)], check=True)
    try:
        left = leaks.wait_clean(before, marker, timeout_s=0)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert f"{tmp_path} (tmpfs)" in left["mount"]
    assert f"{tmp_path} (tmpfs)" not in leaks.snapshot(marker)["mount"]
