"""`modal.exception.simulate_preemption`: a signal as of a machine that is taken away. Nobody takes one's own machines away; programs test with it."""

import random
import signal

from squall.model.errors import InvalidError

#: Between the first signal and the second, as with Modal.
GRACE_S = 30


def simulate_preemption(wait_seconds: int, jitter_seconds: int = 0) -> None:
    """Raise KeyboardInterrupt in the main thread after `wait_seconds`, by SIGINT, and once more 30 seconds later. Uses SIGALRM.

    Args:
        jitter_seconds: up to as many more, at random.

    Raises:
        InvalidError: no time ahead.
    """
    if wait_seconds <= 0:
        raise InvalidError(f"wait_seconds={wait_seconds!r} is not a time ahead")

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
        signal.alarm(GRACE_S)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, wait_seconds + random.random() * jitter_seconds)
