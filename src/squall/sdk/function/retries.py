"""How often and how late a failed input is tried again."""

from squall.model.errors import InvalidError
from squall.model.specs import RetryPolicy


class Retries:
    """Retry with growing delays: ``initial_delay * backoff_coefficient**n`` seconds, at most `max_delay`.

    Args:
        max_retries: attempts after the first, 0 or more.
        backoff_coefficient: 1 (fixed delay) to 10.
        initial_delay: seconds before the first retry, 0 to 60.
        max_delay: longest delay in seconds, 1 to 60.

    Raises:
        InvalidError: a value outside its range.
    """

    def __init__(self, *, max_retries: int, backoff_coefficient: float = 2.0, initial_delay: float = 1.0, max_delay: float = 60.0) -> None:
        if not isinstance(max_retries, int) or isinstance(max_retries, bool) or max_retries < 0:
            raise InvalidError(f"max_retries={max_retries!r} is not a whole number of 0 or more")
        _check_range("backoff_coefficient", backoff_coefficient, 1.0, 10.0)
        _check_range("initial_delay", initial_delay, 0.0, 60.0)
        _check_range("max_delay", max_delay, 1.0, 60.0)
        self.policy = RetryPolicy(max_retries, float(initial_delay), float(backoff_coefficient), float(max_delay))

    def __repr__(self) -> str:
        p = self.policy
        return f"Retries(max_retries={p.max_retries}, backoff_coefficient={p.backoff}, initial_delay={p.initial_delay_s}, max_delay={p.max_delay_s})"


def parse_retries(value: object) -> RetryPolicy | None:
    """The policy of a ``retries=`` parameter: None, a count with the fixed delay of one second, or `Retries`.

    Raises:
        InvalidError: anything else.
    """
    if value is None:
        return None
    if isinstance(value, Retries):
        return value.policy
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return RetryPolicy(max_retries=value)
    raise InvalidError(f"retries={value!r} is neither a whole number of 0 or more nor squall.Retries(...)")


def _check_range(name: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidError(f"{name}={value!r} is not a number from {low:g} to {high:g}")
