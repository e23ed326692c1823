"""Listings: aligned for people, complete for programs, helpful when empty."""

import json
import time

import pytest

from squall.cli.ui.listing import Column, age, mebibytes, show, show_one

COLUMNS = (Column("ID", ("id",)), Column("MEMORY", ("memory",), mebibytes), Column("ABSENT", ("nowhere",)))


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"id": "ap-1", "memory": 3 << 20}, {"id": "ap-22222", "memory": None}], COLUMNS, as_json=False, empty="")
    assert capsys.readouterr() == ("ID        MEMORY\nap-1      3 MiB\nap-22222  -\n", "")


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "ap-1", "memory": 5, "more": b"x"}]
    show(rows, COLUMNS, as_json=True, empty="nothing")
    assert json.loads(capsys.readouterr().out) == [{"id": "ap-1", "memory": 5, "more": "x"}]
    show([], COLUMNS, as_json=True, empty="nothing")
    assert capsys.readouterr() == ("[]\n", "")


def test_empty(capsys: pytest.CaptureFixture[str]) -> None:
    show([], COLUMNS, as_json=False, empty="make one")
    assert capsys.readouterr() == ("", "make one\n")


def test_one(capsys: pytest.CaptureFixture[str]) -> None:
    show_one({"uptime_s": 3.4, "memory_max_bytes": 5 << 20, "x": None, "listening": ["a", "b"]}, as_json=False)
    assert capsys.readouterr().out == "uptime      3 s\nmemory max  5 MiB\nx           -\nlistening   a, b\n"


@pytest.mark.parametrize(("seconds", "shown"), [(5, "5 s"), (119, "119 s"), (600, "10 min"), (3 * 3600, "3 h"), (3 * 86_400, "3 d")])
def test_age(seconds: float, shown: str) -> None:
    assert age(time.time() - seconds) == shown
    assert age(None) == "-"


def test_a_terminal_obeys_no_name_and_no_reason(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"id": "ap\x1b[2J\nap-2", "memory": None}], COLUMNS, as_json=False, empty="")
    show_one({"reason": "two\nlines\x1b]0;title\x07"}, as_json=False)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "ap\\x1b[2J\\nap-2" in out and "reason  two\nlines\\x1b]0;title" in out
