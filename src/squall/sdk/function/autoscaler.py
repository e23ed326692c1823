"""How many containers a function has: asked, and changed, while its app runs."""

from typing import Any, Protocol

from squall.model.errors import InvalidError, UnsupportedError
from squall.sdk.client.dual_method import ThreadTwin
from squall.sdk.types import FunctionAutoscalerSettings, FunctionCurrentStats, ServerAutoscalerSettings
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
    row = answer.rows[0]
    return FunctionAutoscalerSettings(row["min_containers"], row["max_containers"], row["scaledown_window"], row["buffer_containers"])


def tuned_server(answer: Any) -> ServerAutoscalerSettings:
    assert isinstance(answer, Rows)
    row = answer.rows[0]
    return ServerAutoscalerSettings(
        row["target_concurrency"], row["min_containers"], row["max_containers"], row["buffer_containers"], None, row["scaledown_window"]
    )


def stats_of(answer: Any) -> FunctionCurrentStats:
    assert isinstance(answer, Rows)
    (row,) = answer.rows
    return FunctionCurrentStats(row["queued"], row["containers"], row["running"], row["headroom"])


#: Modal's mark of a parameter that is not given, where None means something.
UNSET = -1


class Tuned(Protocol):
    """What has an autoscaler."""

    def _tune(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> FunctionAutoscalerSettings: ...


def given(name: str, value: Any) -> Any:
    """What `tuning` takes: None for what is not given, 0 for None. Raises UnsupportedError: None for a limit, which can't be taken away."""
    if value == UNSET:
        return None
    if value is None and name == "max_containers":
        raise UnsupportedError("max_containers=None of autoscaler.update is not supported yet: give a number")
    return 0 if value is None else value


class Autoscaler:
    """``function.autoscaler``: how many containers a function has, while its app runs."""

    def __init__(self, of: Tuned) -> None:
        self._of = of

    @ThreadTwin
    def settings(self) -> FunctionAutoscalerSettings:
        """The settings that hold now."""
        return self._of._tune()

    @ThreadTwin
    def update(
        self,
        *,
        min_containers: int | None = UNSET,
        max_containers: int | None = UNSET,
        buffer_containers: int | None = UNSET,
        scaledown_window: float = UNSET,
    ) -> FunctionAutoscalerSettings:
        """Change some of the settings, until the app ends or its next version comes; returns those that hold now.

        Args:
            min_containers, buffer_containers: None is 0.

        Raises:
            InvalidError: naming the parameter.
            UnsupportedError: ``max_containers=None``: a limit can't be taken away.
        """
        return self._of._tune(
            min_containers=given("min_containers", min_containers),
            max_containers=given("max_containers", max_containers),
            buffer_containers=given("buffer_containers", buffer_containers),
            scaledown_window=given("scaledown_window", scaledown_window),
        )
