"""Values that calls of the SDK return, under the names of `modal.types`."""

from dataclasses import dataclass, field
from enum import IntEnum


@dataclass(frozen=True, slots=True)
class FunctionAutoscalerSettings:
    """How many containers a function has. `scaledown_window` is seconds; `max_containers` None: no limit."""

    min_containers: int
    max_containers: int | None
    scaledown_window: float
    buffer_containers: int


@dataclass(frozen=True, slots=True)
class FunctionCurrentStats:
    """A function at this moment. `backlog`: inputs that no container has; `input_headroom`: inputs that its containers could take at once."""

    backlog: int
    num_total_runners: int
    num_running_inputs: int
    input_headroom: int


class InputStatus(IntEnum):
    """What has become of an input."""

    PENDING = 0
    SUCCESS = 1
    FAILURE = 2
    INIT_FAILURE = 3
    TERMINATED = 4
    TIMEOUT = 5


@dataclass(slots=True)
class InputInfo:
    """An input in a call graph. `task_id` is its container; `children` are the inputs of the calls that it made."""

    input_id: str
    function_call_id: str
    task_id: str
    status: InputStatus
    function_name: str
    module_name: str
    children: list["InputInfo"] = field(default_factory=list)
