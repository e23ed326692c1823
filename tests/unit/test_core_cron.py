"""When schedules are due: over daylight-saving changes, month ends, restarts. Times are written in UTC."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squall.core.cron import describe, missed, next_due
from squall.model.specs import Schedule


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def shown(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(sep=" ").removesuffix("+00:00")


def ticks(schedule: Schedule, after: str, count: int) -> list[str | None]:
    found, moment = [], at(after)
    for _ in range(count):
        due = next_due(schedule, at(after), moment)
        found.append(shown(due))
        if due is None:
            break
        moment = due
    return found


DAILY = Schedule(cron="0 9 * * *", timezone="Europe/Paris")


def test_a_fixed_hour_follows_the_wall_clock() -> None:
    # Winter: 9:00 in Paris is 8:00 UTC. Summer time begins on 2026-03-29.
    assert ticks(DAILY, "2026-03-27 12:00", 3) == ["2026-03-28 08:00:00", "2026-03-29 07:00:00", "2026-03-30 07:00:00"]
    assert ticks(DAILY, "2026-10-24 12:00", 2) == ["2026-10-25 08:00:00", "2026-10-26 08:00:00"]


def test_an_hour_that_does_not_exist_comes_once_and_a_doubled_one_once() -> None:
    early = Schedule(cron="30 2 * * *", timezone="Europe/Paris")
    # 2:30 does not exist on the 29th: one tick that day, not none and not two.
    spring = ticks(early, "2026-03-28 12:00", 3)
    assert spring[0] == "2026-03-29 01:00:00"
    assert spring[1] == "2026-03-30 00:30:00"
    # 2:30 comes twice on October 25th (00:30 and 01:30 UTC): one tick.
    autumn = ticks(early, "2026-10-24 12:00", 2)
    assert autumn == ["2026-10-25 00:30:00", "2026-10-26 01:30:00"]


def test_every_minute_runs_through_both_hours() -> None:
    found = ticks(Schedule(cron="* * * * *", timezone="Europe/Paris"), "2026-10-24 23:59", 180)
    assert len(set(found)) == 180
    assert found[0] == "2026-10-25 00:00:00"
    assert found[-1] == "2026-10-25 02:59:00"


def test_a_tick_is_later_than_the_moment_asked_about() -> None:
    assert shown(next_due(DAILY, 0, at("2026-01-01 08:00"))) == "2026-01-02 08:00:00"
    assert shown(next_due(DAILY, 0, at("2026-01-01 07:59:59.999"))) == "2026-01-01 08:00:00"
    assert shown(next_due(DAILY, 0, at("2026-01-01 08:00:00.4"))) == "2026-01-02 08:00:00"


def test_a_cron_that_never_comes() -> None:
    assert next_due(Schedule(cron="0 0 30 2 *"), 0, at("2026-01-01 00:00")) is None
    assert missed(Schedule(cron="0 0 30 2 *"), 0, None, at("2026-01-01 00:00")) is None


def test_a_period_is_counted_from_its_beginning() -> None:
    period = Schedule(seconds=3600.0)
    since = at("2026-01-01 00:10")
    assert shown(next_due(period, since, since)) == "2026-01-01 01:10:00"
    assert shown(next_due(period, since, at("2026-01-01 05:10"))) == "2026-01-01 06:10:00"
    assert shown(next_due(period, since, at("2026-01-01 05:09:59"))) == "2026-01-01 05:10:00"


def test_months_keep_their_day_or_take_the_last() -> None:
    monthly = Schedule(months=1)
    since = at("2026-01-31 06:00")
    assert [shown(next_due(monthly, since, at(f"2026-{month:02}-01 00:00"))) for month in (2, 3, 4, 5)] == [
        "2026-02-28 06:00:00",
        "2026-03-31 06:00:00",
        "2026-04-30 06:00:00",
        "2026-05-31 06:00:00",
    ]
    yearly = Schedule(months=12, seconds=60.0)
    assert shown(next_due(yearly, at("2024-02-29 00:00"), at("2024-02-29 00:00"))) == "2025-02-28 00:01:00"


def test_what_a_server_missed_is_one_tick() -> None:
    since = at("2026-01-01 00:00")
    period = Schedule(seconds=60.0)
    assert missed(period, since, at("2026-01-01 00:10"), at("2026-01-01 00:10:59")) is None
    assert shown(missed(period, since, at("2026-01-01 00:10"), at("2026-01-01 00:11"))) == "2026-01-01 00:11:00"
    assert shown(missed(period, since, at("2026-01-01 00:10"), at("2026-01-01 00:15:30"))) == "2026-01-01 00:15:00"


def test_descriptions() -> None:
    assert describe(DAILY) == "0 9 * * * Europe/Paris"
    assert describe(Schedule(seconds=5400.0)) == "every 1 h 30 min"
    assert describe(Schedule(months=1, seconds=2.5)) == "every 1 month 2.5 s"


@given(
    st.sampled_from(["* * * * *", "*/7 3 * * *", "0 9 * * 1-5", "30 2 * * *", "0 0 1 * *", "15,45 * * * sun"]),
    st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]),
    st.floats(1_500_000_000, 2_000_000_000),
)
def test_ticks_only_go_forward(expression: str, zone: str, start: float) -> None:
    schedule, moment = Schedule(cron=expression, timezone=zone), start
    for _ in range(5):
        due = next_due(schedule, start, moment)
        assert due is not None
        assert due > moment
        assert due % 60 == 0
        moment = due


@given(st.integers(0, 30), st.floats(0, 100_000), st.floats(1_500_000_000, 2_000_000_000), st.floats(0, 100_000_000))
def test_a_period_never_goes_back(months: int, seconds: float, since: float, later: float) -> None:
    schedule = Schedule(months=months, seconds=round(seconds, 3))
    if not months and not schedule.seconds:
        return
    due = next_due(schedule, since, since + later)
    assert due is not None
    assert due > since + later
    following = next_due(schedule, since, due)
    assert following is not None
    assert following > due


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "UTC"])
def test_a_restart_at_any_moment_changes_nothing(zone: str) -> None:
    schedule = Schedule(cron="*/30 * * * *", timezone=zone)
    begin, end = at("2026-10-24 22:00"), at("2026-11-02 12:00")
    straight, moment = [], begin
    while (due := next_due(schedule, begin, moment)) is not None and due <= end:
        straight.append(due)
        moment = due
    restarted, moment = [], begin
    while moment < end:
        due = next_due(schedule, begin, moment)
        assert due is not None
        if due <= end:
            restarted.append(due)
        moment = due
        moment = max(moment, due) + 0.25  # a restart, a quarter of a second after the tick
    assert restarted == straight
