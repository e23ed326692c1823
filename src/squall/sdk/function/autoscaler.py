"""How many containers a function has: asked, and changed, while its app runs."""

from typing import Any

from squall.model.errors import InvalidError
from squall.sdk.types import FunctionAutoscalerSettings, FunctionCurrentStats
from squall.wire.messages import Rows, TuneFunction


def tuning(function: str, parameters: bytes, least: object, most: object, spare: object, window: object) -> TuneFunction:
    """The request, checked as in a decorator. Raises InvalidError."""
    from squall.sdk.app.checks import count, seconds

    low = None if least is None else count("min_containers", least, 0)
    high = None if most is None else count("max_containers", most, 1)
    if low is not None and high is not None and low > high:
        raise InvalidError(f"min_containers={low} is more than max_containers={high}")
    return TuneFunction(
        function, parameters, low, high, None if spare is None else count("buffer_containers", spare, 0),
        None if window is None else seconds("scaledown_window", window, 2, 3600),
    )  # fmt: skip


def tuned(answer: Any) -> FunctionAutoscalerSettings:
    assert isinstance(answer, Rows)
    return FunctionAutoscalerSettings(**answer.rows[0])


def stats_of(answer: Any) -> FunctionCurrentStats:
    assert isinstance(answer, Rows)
    (row,) = answer.rows
    return FunctionCurrentStats(row["queued"], row["containers"], row["running"], row["headroom"])
