"""`modal._utils.deprecation`: how programs beside Modal's client warn of what is old in them."""

import warnings
from datetime import date
from typing import NoReturn

from squall.model.errors import DeprecationError

Day = tuple[int, int, int] | date


def deprecation_warning(deprecated_on: Day, msg: str, *, pending: bool = False, show_source: bool = True) -> None:
    """Warn, with the day on which it became old."""
    warnings.warn(_dated(deprecated_on, msg), PendingDeprecationWarning if pending else DeprecationError, stacklevel=3 if show_source else 2)


def deprecation_error(deprecated_on: Day, msg: str) -> NoReturn:
    """
    Raises:
        DeprecationError: always.
    """
    raise DeprecationError(_dated(deprecated_on, msg))


def _dated(day: Day, msg: str) -> str:
    return f"{day if isinstance(day, date) else date(*day)}: {msg}"
