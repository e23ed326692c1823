"""Descriptors that the server keeps for its owner and for starts of containers, however many connections others open."""

import resource

#: So many of the process's limit are not for connections of strangers and containers.
RESERVE = 256


def scarce(newest: int) -> bool:
    """Whether hardly more than the reserve is left. `newest`: a descriptor that was just made: Linux gives the lowest free number."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return newest >= limit - min(RESERVE, limit // 4)


def raise_limit() -> None:
    """As many as the process may have: shells often give 1,024 and allow far more."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
