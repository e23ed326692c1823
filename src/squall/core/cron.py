"""When a schedule is next due: exact over daylight-saving changes, month ends and restarts, because it is counted from one instant to the next."""

import calendar
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from squall.model.specs import Schedule


def next_due(schedule: Schedule, since: float, after: float) -> float | None:
    """The first tick later than `after`; None when there is none in the next fifty years.

    A cron line is read in its own time zone. At a change to summer time, a tick in the hour that does not exist comes at the end of the gap; at the change
    back, a tick at a fixed hour comes once and one of ``*`` comes in both hours (as Debian's cron has it; that is what cronsim implements).

    A period is counted from `since`: calendar months first, on the same day of the month or on the month's last, then seconds. So it does not drift.

    Args:
        since: Unix time at which the schedule began: when the function got this schedule.
        after: Unix time.
    """
    if schedule.cron is not None:
        return _cron(schedule.cron, schedule.timezone, after)
    return _period(schedule, since, after)


def _cron(expression: str, timezone: str, after: float) -> float | None:
    # cronsim searches strictly after the given minute in local time. It counts whole seconds, so a fraction must not bring back the tick of this minute.
    start = datetime.fromtimestamp(after, UTC).astimezone(ZoneInfo(timezone))
    try:
        ticks = CronSim(expression, start)
        while True:
            tick = float(next(ticks).timestamp())
            if tick > after:
                return tick
    except (StopIteration, CronSimError):
        return None


def _period(schedule: Schedule, since: float, after: float) -> float | None:
    if schedule.months == 0:
        if after < since:
            return since + schedule.seconds
        steps = int((after - since) // schedule.seconds) + 1
        due = since + steps * schedule.seconds
        return due if due > after else due + schedule.seconds
    begin = datetime.fromtimestamp(since, UTC)
    # A first guess that is certainly not too late; each step is at least the shortest month.
    longest_s = schedule.months * 31 * 86_400 + schedule.seconds
    steps = max(1, int(max(0.0, after - since) // longest_s))
    while True:
        moment = _add_months(begin, schedule.months * steps) + timedelta(seconds=schedule.seconds * steps)
        if moment.timestamp() > after:
            return moment.timestamp()
        steps += 1


def _add_months(moment: datetime, months: int) -> datetime:
    year, month = divmod(moment.year * 12 + moment.month - 1 + months, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


def missed(schedule: Schedule, since: float, last: float | None, now: float) -> float | None:
    """The latest tick that has passed since `last` (or since the beginning) and was not run; None if none has."""
    tick = next_due(schedule, since, since if last is None else last)
    if tick is None or tick > now:
        return None
    while (following := next_due(schedule, since, tick)) is not None and following <= now:
        tick = following
    return tick


def describe(schedule: Schedule) -> str:
    """``0 9 * * * Europe/Paris`` or ``every 1 h 30 min``."""
    if schedule.cron is not None:
        return f"{schedule.cron} {schedule.timezone}"
    parts = [f"{schedule.months} month{'s' if schedule.months != 1 else ''}"] if schedule.months else []
    seconds = schedule.seconds
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        whole, seconds = divmod(seconds, size)
        if whole:
            parts.append(f"{whole:g} {unit}")
    if seconds:
        parts.append(f"{seconds:g} s")
    return "every " + " ".join(parts)
