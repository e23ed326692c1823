"""A disk that containers fill: who has written most is ended, and only then."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from squall.worker.disk_guard import DiskGuard

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Of 100 MiB, of which 2 are to stay free."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def write(disk: Path, name: str, mib: int) -> None:
    folder = disk / name / "upper" / "deep"
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(os.urandom(MIB) * mib)


async def test_who_has_written_most_is_ended_when_the_disk_is_nearly_full(disk: Path) -> None:
    ended: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    def end(name: str, written: int) -> bool:
        ended.put_nowait((name, written))
        return True

    guard = DiskGuard(disk, end)
    write(disk, "ct-little", 1)
    write(disk, "ct-some", 20)
    write(disk, "ct-most", 60)
    assert guard.is_near()
    assert guard.most() is None
    write(disk, "ct-last", 18)
    guarding = asyncio.create_task(guard.run())
    async with asyncio.timeout(60):
        name, written = await ended.get()
    guarding.cancel()
    assert name == "ct-most"
    assert 60 * MIB <= written < 61 * MIB
    # Nobody else goes while that one is on its way out.
    assert guard.most() is None


async def test_what_others_write_ends_no_container(disk: Path) -> None:
    (disk / "data").write_bytes(bytes(98 * MIB + MIB // 2))
    (disk / "containers").mkdir()
    write(disk / "containers", "ct-little", 1)
    assert DiskGuard(disk / "containers", lambda name, written: True).most() is None
