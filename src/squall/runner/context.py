"""Where the running code is: in which container, and for which input."""

import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

#: Set by the agent in a container's environment: the path of the only socket that the container talks through.
SOCKET_VARIABLE = "SQUALL_CONTAINER_SOCKET"
CONTAINER_VARIABLE = "SQUALL_CONTAINER_ID"


@dataclass(slots=True)
class Here:
    """This container. `functions` are the app's function ids by tag. Outside a container everything is empty."""

    container: str = ""
    app: str = ""
    app_name: str = ""
    function: str = ""
    image: str = ""
    socket: str = ""
    parcels: str = ""
    functions: Mapping[str, str] = field(default_factory=dict)
    max_inputs: int = 1  #: how many inputs run here at a time


here = Here()

#: (call id, index) of the input being run.
current_input: ContextVar[tuple[str, int] | None] = ContextVar("squall_current_input", default=None)


def in_container() -> bool:
    """Whether this process runs in a container of Squall; known before anything was connected."""
    return SOCKET_VARIABLE in os.environ
