"""The pools of class parameters: how many a function and an app may have, and when one that nobody uses is removed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from squall.control.calls.live_function import LiveFunction
from squall.control.retention import positive
from squall.model.errors import InvalidError, ResourceExhaustedError
from squall.model.options import words

if TYPE_CHECKING:
    from squall.control.calls.router import Router

#: Of such a pool in the router: the function's id and the packed parameters.
Key = tuple[str, bytes]

#: The packed parameters of one object. They name its pool and lie in memory as long as that does.
PARAMETERS_BYTES_MAX = 64 << 10
#: The packed parameters of all pools of one app.
APP_BYTES_MAX = 64 << 20
#: How often unused pools are looked for, in seconds.
SWEEP_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Pools with parameters that one function, and one app, may have at a time."""

    function: int = 5_000
    app: int = 10_000


def from_environment(environ: Mapping[str, str]) -> Limits:
    """
    Raises:
        InvalidError: a variable is not a positive number.
    """
    usual = Limits()
    return Limits(
        function=max(1, int(positive(environ, "SQUALL_CLASS_POOLS_FUNCTION", 1, usual.function))),
        app=max(1, int(positive(environ, "SQUALL_CLASS_POOLS_APP", 1, usual.app))),
    )


class ClassPools:
    """Counts the router's pools that have parameters, and removes those that have had no input and no container for a scaledown window."""

    def __init__(self, router: "Router", limits: Limits) -> None:
        self._router, self._limits = router, limits
        #: The function of each pool, by its key; and since when the unused ones are.
        self._known: dict[Key, LiveFunction] = {}
        self._unused: dict[Key, float] = {}
        self._of_function: Counter[str] = Counter()
        self._of_app: Counter[str] = Counter()
        self._app_bytes: Counter[str] = Counter()
        self._sweeping = False
        self._swept = float("-inf")

    def __len__(self) -> int:
        return len(self._known)

    def check(self, function: LiveFunction, parameters: bytes) -> None:
        """That one more pool may be made.

        Raises:
            InvalidError: it is no class with parameters, or these are too large.
            ResourceExhaustedError: the function or the app has as many as it may.
        """
        what = words(function.spec.tag)
        if not function.spec.parameters:
            raise InvalidError(f"{what} takes no parameters")
        if len(parameters) > PARAMETERS_BYTES_MAX:
            raise InvalidError(
                f"the parameters of {what} have {len(parameters):,} bytes, and may have {PARAMETERS_BYTES_MAX:,}; pass large values to a method instead"
            )
        if self._refusal(function, parameters) and self._router.now() - self._swept >= 1.0:
            self._remove_unused(0.0)
        if refusal := self._refusal(function, parameters):
            raise ResourceExhaustedError(refusal)

    def _refusal(self, function: LiveFunction, parameters: bytes) -> str:
        """Why there may be no more now; empty: there may be."""
        if self._of_function[function.id] >= self._limits.function:
            return _too_many(f"{words(function.spec.tag)} is", self._limits.function, "SQUALL_CLASS_POOLS_FUNCTION")
        if self._of_app[function.app] >= self._limits.app:
            return _too_many("the classes of this app are", self._limits.app, "SQUALL_CLASS_POOLS_APP")
        if self._app_bytes[function.app] + len(parameters) > APP_BYTES_MAX:
            return (
                f"the sets of parameters that classes of this app are used with have {APP_BYTES_MAX >> 20} MiB together, the most that they may have; "
                "pass large values to methods instead"
            )
        return ""

    def added(self, function: LiveFunction, parameters: bytes) -> None:
        """The router has one more."""
        self._known[(function.id, parameters)] = function
        self._of_function[function.id] += 1
        self._of_app[function.app] += 1
        self._app_bytes[function.app] += len(parameters)
        if not self._sweeping:
            self._sweeping = True
            self._router.later(SWEEP_S, self._sweep)

    def used(self, key: Key) -> None:
        """An input goes there."""
        self._unused.pop(key, None)

    def removed(self, key: str | Key) -> None:
        """The router has no pool of this key any more. Keys that were never `added` are passed over."""
        if isinstance(key, str) or (function := self._known.pop(key, None)) is None:
            return
        self._unused.pop(key, None)
        _take(self._of_function, function.id, 1)
        _take(self._of_app, function.app, 1)
        _take(self._app_bytes, function.app, len(key[1]))

    def _sweep(self) -> None:
        self._remove_unused()
        self._sweeping = bool(self._known)
        if self._sweeping:
            self._router.later(SWEEP_S, self._sweep)

    def _remove_unused(self, window_s: float | None = None) -> None:
        """Remove those that have been unused for so long, usually the scaledown window of their function."""
        now = self._swept = self._router.now()
        for key in list(self._known):
            pool = self._router.pools[key]
            if not pool.unused:
                self._unused.pop(key, None)
            elif now - self._unused.setdefault(key, now) >= (pool.spec.scaling.scaledown_window_s if window_s is None else window_s):
                self._router.remove_pool(key)


def _take(counter: Counter[str], name: str, count: int) -> None:
    counter[name] -= count
    if not counter[name]:
        del counter[name]


def _too_many(what: str, most: int, setting: str) -> str:
    return (
        f"{what} used with {most:,} different sets of parameters at a time already; try again when some have been idle for their scaledown window, "
        f"or start the server with a larger {setting}"
    )
