"""Values that calls of the SDK return, under the names of `modal.types`."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, TypedDict


@dataclass(frozen=True, slots=True)
class FunctionAutoscalerSettings:
    """How many containers a function has. `scaledown_window` is seconds; `max_containers` None: no limit."""

    min_containers: int
    max_containers: int | None
    scaledown_window: float
    buffer_containers: int


@dataclass(frozen=True, slots=True)
class ServerAutoscalerSettings:
    """How many containers a server has. `target_concurrency`: requests at a time in one, beyond which another starts; `scaleup_window` has no meaning here."""

    target_concurrency: float | None
    min_containers: int | None
    max_containers: int | None
    buffer_containers: int | None
    scaleup_window: float | None
    scaledown_window: float | None


@dataclass(frozen=True, slots=True)
class FunctionCurrentStats:
    """A function at this moment. `backlog`: inputs that no container has; `input_headroom`: inputs that its containers could take at once."""

    backlog: int
    num_total_runners: int
    num_running_inputs: int
    input_headroom: int


@dataclass(slots=True)
class LogEntry:
    """A line that a container wrote, with its end. `context_ids`: of the call, the input and the container, as far as they are known."""

    message: str
    timestamp: datetime
    source: str
    object_id: str
    context_ids: list[str]

    def __str__(self) -> str:
        return self.message


class InputStatus(IntEnum):
    """What has become of an input. The numbers are Modal's, since programs store them."""

    PENDING = 0
    SUCCESS = 1
    FAILURE = 2
    TERMINATED = 3
    TIMEOUT = 4
    INIT_FAILURE = 5


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


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """Of a volume. `created_by` is None: a server has one owner."""

    name: str | None
    created_at: datetime
    created_by: str | None = None


@dataclass(frozen=True, slots=True)
class DictInfo:
    """Of a Dict."""

    name: str | None
    created_at: datetime
    created_by: str | None = None


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """Of a Queue."""

    name: str | None
    created_at: datetime
    created_by: str | None = None


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """Of a secret, without its values. `last_used`: by a container that started, to the minute."""

    name: str
    environment_name: str
    created_at: datetime
    created_by: str | None = None
    last_used: datetime | None = None


class FileEntryType(IntEnum):
    """What something in a volume is."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Something in a volume. `path` is relative to its root, `mtime` Unix seconds, `size` bytes."""

    path: str
    type: FileEntryType
    mtime: int
    size: int


@dataclass(frozen=True, slots=True)
class VolumeSnapshot:
    """A volume as it was. `bytes` of all its files, those that it shares with another snapshot included."""

    id: str
    created_at: datetime
    note: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class VolumeMountInfo:
    """A volume in a function's containers."""

    name: str | None
    volume_id: str
    read_only: bool
    sub_path: str | None = None


@dataclass(frozen=True, slots=True)
class CloudBucketMountInfo:
    """A bucket in a function's containers."""

    bucket_name: str
    bucket_type: str
    read_only: bool
    key_prefix: str | None = None


class VolumeCreateOptions(TypedDict, total=False):
    """For `create_options=`, which is not supported yet."""

    experimental_options: dict[str, Any]


def __getattr__(name: str) -> Any:
    from squall.sdk import unsupported_types

    if name in unsupported_types.NAMES:
        return getattr(unsupported_types, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
