"""Cron expressions, periods, retries."""

import builtins
from typing import Any

import pytest

import squall
from squall.exception import InvalidError
from squall.sdk.app.schedule import check_cron

GOOD = ["* * * * *", "0 9 * * *", "*/5 0-6 1,15 jan-mar mon-fri", "0 0 L * *", "0 0 * * 5#2", "59 23 31 12 7", "0 0 29 2 *"]
BAD = [
    "",
    "* * * *",
    "* * * * * *",
    "60 * * * *",
    "* 24 * * *",
    "* * 0 * *",
    "* * * 13 *",
    "* * * * 8",
    "a * * * *",
    "*/0 * * * *",
    "5-1 * * * *",
    "1- * * * *",
    "@daily",
    None,
    5,
]


@pytest.mark.parametrize("without_cronsim", [False, True])
@pytest.mark.parametrize("text", GOOD)
def test_good(text: str, without_cronsim: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if without_cronsim:
        _hide_cronsim(monkeypatch)
    check_cron(text)


@pytest.mark.parametrize("without_cronsim", [False, True])
@pytest.mark.parametrize("text", BAD)
def test_bad(text: Any, without_cronsim: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if without_cronsim:
        _hide_cronsim(monkeypatch)
    with pytest.raises(InvalidError, match="cron_string"):
        squall.Cron(text)


def test_a_date_that_never_comes_is_refused() -> None:
    with pytest.raises(InvalidError):
        squall.Cron("0 0 30 2 *")


def test_timezones() -> None:
    assert squall.Cron("0 9 * * *", timezone="Europe/Paris").spec.timezone == "Europe/Paris"
    with pytest.raises(InvalidError, match="timezone='Mars/Olympus'"):
        squall.Cron("0 9 * * *", timezone="Mars/Olympus")
    with pytest.raises(InvalidError, match="timezone="):
        squall.Cron("0 9 * * *", timezone="../../etc/passwd")


def test_periods() -> None:
    spec = squall.Period(years=1, months=1, weeks=1, days=1, hours=1, minutes=1, seconds=1.5).spec
    assert (spec.months, spec.seconds) == (13, 8 * 86_400 + 3_661.5)
    for wrong in ({}, {"days": -1}, {"days": 1.5}, {"seconds": -0.1}, {"seconds": "1"}, {"hours": True}):
        with pytest.raises(InvalidError):
            squall.Period(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_retries": -1},
        {"max_retries": 1.5},
        {"backoff_coefficient": 0.9},
        {"backoff_coefficient": 11},
        {"initial_delay": -1},
        {"initial_delay": 61},
        {"max_delay": 0.5},
        {"max_delay": 61},
    ],
)
def test_retries_ranges(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match=next(iter(wrong))):
        squall.Retries(**{"max_retries": 1, **wrong})


def _hide_cronsim(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importer(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cronsim":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importer)
