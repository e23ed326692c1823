"""Results that are kept for a client's next connection: the same bytes from memory and from files, and nothing left of them afterwards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from squall.control.calls import kept_results
from squall.control.calls.kept_results import KeptResults


def test_beyond_its_memory_results_lie_in_files_until_they_are_taken_or_expire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "MEMORY_BYTES_MAX", 10)
    timers: list[Callable[[], object]] = []
    kept = KeptResults(lambda delay, action: timers.append(action), 60.0)
    kept.directory = tmp_path
    values = {("fc-1", number): bytes([number]) * 6 for number in range(4)}
    for key, value in values.items():
        kept.keep(key, 0, value)
    assert len(list(tmp_path.iterdir())) == 3
    assert kept.take(("fc-1", 0)) == (0, values[("fc-1", 0)])
    assert kept.take(("fc-1", 2)) == (0, values[("fc-1", 2)])
    assert ("fc-1", 2) not in kept
    kept.keep(("fc-1", 2), 1, b"newer")
    timers[2]()  # of the one before
    assert kept.take(("fc-1", 2)) == (1, b"newer")
    for timer in timers:
        timer()
    assert len(kept) == 0
    assert not list(tmp_path.iterdir())


def test_files_have_a_limit_and_a_full_disk_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_results, "MEMORY_BYTES_MAX", 0)
    monkeypatch.setattr(kept_results, "FILES_BYTES_MAX", 10)
    kept = KeptResults(lambda delay, action: None, 60.0)
    kept.directory = tmp_path
    for number in range(5):
        kept.keep(("fc-1", number), 0, bytes(4))
    assert [("fc-1", number) in kept for number in range(5)] == [False, False, False, True, True]
    assert len(list(tmp_path.iterdir())) == 2
    kept.directory = tmp_path / "absent"
    kept.keep(("fc-1", 4), 0, b"none")
    assert ("fc-1", 4) not in kept
    assert kept.take(("fc-1", 3)) == (0, bytes(4))
    assert not list(tmp_path.iterdir())
