"""When a function runs by itself: `Cron` and `Period`. Checked here; the server keeps the time."""

import re

from squall.model.errors import InvalidError
from squall.model.specs import Schedule

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
_MONTHS = {name: number for number, name in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)}
_DAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_PART = re.compile(r"(\*|[0-9a-z]+(?:-[0-9a-z]+)?)(?:/([0-9]+))?")


class Cron:
    """Run when a five-field cron expression matches.

    Args:
        cron_string: minute, hour, day of month, month, day of week; for example ``"0 9 * * 1-5"``.
        timezone: an IANA name such as ``Europe/Paris``.

    Raises:
        InvalidError: the expression or the time zone can't be understood.
    """

    def __init__(self, cron_string: str, timezone: str = "UTC") -> None:
        check_cron(cron_string)
        if timezone != "UTC":
            _check_timezone(timezone)
        self.spec = Schedule(cron=cron_string, timezone=timezone)

    def __repr__(self) -> str:
        return f"Cron({self.spec.cron!r}, timezone={self.spec.timezone!r})"


class Period:
    """Run every so often. Years and months follow the calendar; only `seconds` may have a fraction.

    Raises:
        InvalidError: a negative or fractional part, or nothing at all.
    """

    def __init__(self, *, years: int = 0, months: int = 0, weeks: int = 0, days: int = 0, hours: int = 0, minutes: int = 0, seconds: float = 0) -> None:
        for name, value in {"years": years, "months": months, "weeks": weeks, "days": days, "hours": hours, "minutes": minutes}.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InvalidError(f"{name}={value!r} of a Period is not a whole number of 0 or more")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
            raise InvalidError(f"seconds={seconds!r} of a Period is not a number of 0 or more")
        total = seconds + 60 * (minutes + 60 * (hours + 24 * (days + 7 * weeks)))
        self.spec = Schedule(months=12 * years + months, seconds=float(total))
        if not self.spec.months and not self.spec.seconds:
            raise InvalidError("Period() has no length: give it at least one of years, months, weeks, days, hours, minutes, seconds")

    def __repr__(self) -> str:
        return f"Period(months={self.spec.months}, seconds={self.spec.seconds:g})"


def check_cron(expression: object) -> None:
    """Check a cron expression, with cronsim where it is installed (it knows dates that never come), else field by field.

    Raises:
        InvalidError: not a five-field expression that can match.
    """
    if not isinstance(expression, str) or len(expression.split()) != 5:
        raise InvalidError(f'cron_string={expression!r} does not have five fields: minute, hour, day of month, month, day of week, for example "0 9 * * 1-5"')
    for text, (name, low, high) in zip(expression.lower().split(), _FIELDS, strict=True):
        if not all(_valid_part(part, name, low, high) for part in text.split(",")):
            raise InvalidError(f"cron_string={expression!r}: {text!r} is not a {name} ({low}-{high})")
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        return
    from datetime import UTC, datetime

    try:
        next(CronSim(expression, datetime.now(UTC)))
    except (CronSimError, StopIteration) as error:
        raise InvalidError(f"cron_string={expression!r}: {str(error) or 'it never matches'}") from error


def _valid_part(part: str, field: str, low: int, high: int) -> bool:
    if field == "day of month" and part in ("l", "lw"):
        return True
    if field == "day of week" and (named := re.fullmatch(r"([0-7a-z]{1,3})(?:#[1-5]|l)", part)) is not None:
        return low <= _number(named[1], field) <= high
    match = _PART.fullmatch(part)
    if match is None or match[2] == "0":
        return False
    if match[1] == "*":
        return True
    ends = [_number(end, field) for end in match[1].split("-")]
    return all(low <= end <= high for end in ends) and ends == sorted(ends)


def _number(text: str, field: str) -> int:
    if text.isdigit():
        return int(text)
    return {"month": _MONTHS, "day of week": _DAYS}.get(field, {}).get(text, -1)


def _check_timezone(name: object) -> None:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)  # type: ignore[arg-type]
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise InvalidError(f"timezone={name!r} is not a time zone, for example Europe/Paris") from error
