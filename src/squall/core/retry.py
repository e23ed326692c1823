"""What happens to an input whose attempt ended without a value."""

from dataclasses import dataclass

from squall.model.specs import RetryPolicy

#: Attempts that may be lost by the platform's own fault before an input is given up (ARCHITECTURE.md, "A call").
PLATFORM_RETRIES_MAX = 8


@dataclass(frozen=True, slots=True)
class Again:
    """Run it once more after `delay_s`."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Deliver the failure."""


def after_user_failure(attempts: int, policy: RetryPolicy | None) -> Again | GiveUp:
    """After an exception, a timeout, an exit or an out-of-memory kill. `attempts` counts the failed one; it is at least 1."""
    if policy is None or attempts > policy.max_retries:
        return GiveUp()
    return Again(min(policy.max_delay_s, policy.initial_delay_s * policy.backoff ** (attempts - 1)))


def after_platform_failure(lost: int) -> Again | GiveUp:
    """After the platform lost the container (`lost` times so far, this one included). These use up no retries of the user's."""
    return GiveUp() if lost > PLATFORM_RETRIES_MAX else Again(0.0)
