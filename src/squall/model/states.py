"""States of apps, inputs and containers, by the words that the store, the wire and the user's listings share."""

from enum import StrEnum


class AppState(StrEnum):
    """RUNNING: held by a client's session. DEPLOYED: kept until somebody stops it. STOPPED: for good."""

    RUNNING = "running"
    DEPLOYED = "deployed"
    STOPPED = "stopped"


class InputState(StrEnum):
    """QUEUED and RUNNING are live; the others are ends. EXPIRED: it ended, and its outcome is no longer stored."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def live(self) -> bool:
        return self in (InputState.QUEUED, InputState.RUNNING)


class ContainerState(StrEnum):
    """In the order in which a container goes through them; any may be left out, and STOPPED is the end."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
