"""Messages about what programs keep between calls: secrets, volumes, dicts, queues, environments. `wire.messages` joins them to the protocol.

Objects are named by kind, environment and name, or by id. Keys and values of dicts and queues are pickled by the client and opaque here.
"""

from typing import Any

import msgspec

SECRET, VOLUME, DICT, QUEUE, ENVIRONMENT = "secret", "volume", "dict", "queue", "environment"

#: Of OpenObject. LOOK_UP: it must be there. ENSURE: made when missing. CREATE: must not be there yet.
LOOK_UP, ENSURE, CREATE = 0, 1, 2
#: Of PutSecret, what happens to values that are there: REFUSE the request, REPLACE all of them, MERGE into them.
REFUSE, REPLACE, MERGE = 0, 1, 2

#: Partition of a queue when none is named.
DEFAULT_PARTITION = ""


class OpenObject(msgspec.Struct, tag=220, array_like=True):
    """Find or make an object; answered with Opened. By `id` if given, else by name.

    Without either the server makes an ephemeral one (volume, dict or queue), which lasts as long as this connection and a grace.
    """

    kind: str
    name: str = ""
    environment: str = ""
    mode: int = LOOK_UP
    id: str = ""
    required: tuple[str, ...] = ()  #: secrets: keys that it must have
    quota_bytes: int | None = None  #: volumes: of one that is made now


class Opened(msgspec.Struct, tag=221, array_like=True):
    """An object. `keys`: names of a secret's variables, never values."""

    id: str
    kind: str
    name: str
    environment: str
    created_at: float
    keys: tuple[str, ...] = ()


class DropObject(msgspec.Struct, tag=222, array_like=True):
    """Delete an object with all that it holds. Answered with Done."""

    kind: str
    name: str = ""
    environment: str = ""
    allow_missing: bool = False
    id: str = ""


class ListObjects(msgspec.Struct, tag=223, array_like=True):
    """Named objects of an environment, newest first, as Rows. An empty environment: of all."""

    kind: str
    environment: str = ""


class RenameObject(msgspec.Struct, tag=224, array_like=True):
    kind: str
    old: str
    new: str
    environment: str = ""


class PutSecret(msgspec.Struct, tag=225, array_like=True):
    """Store variables under a name; without one they are anonymous, and the same values give the same id. Answered with Opened."""

    values: dict[str, str]
    name: str = ""
    environment: str = ""
    mode: int = REFUSE
    drop: tuple[str, ...] = ()  #: with MERGE: keys to take away

    def __repr__(self) -> str:
        return f"PutSecret({', '.join(self.values)})"


class Collect(msgspec.Struct, tag=226, array_like=True):
    """Remove what nothing refers to. `dry` only says what that is. Answered with Rows."""

    dry: bool = True


class RotateKey(msgspec.Struct, tag=227, array_like=True):
    """Encrypt every secret with a new key. Answered with Count."""


class DictRead(msgspec.Struct, tag=230, array_like=True):
    """The value of a key, as Maybe. `take`: remove it as well."""

    id: str
    key: bytes
    take: bool = False


class DictWrite(msgspec.Struct, tag=231, array_like=True):
    """Set keys, all or none. `absent`: only those that are not there. Answered with Count, of those that were set."""

    id: str
    items: tuple[tuple[bytes, bytes], ...]
    absent: bool = False


class DictScan(msgspec.Struct, tag=232, array_like=True):
    """A page of the entries in the order of their keys' bytes, after `after`. Answered with Pairs."""

    id: str
    after: bytes | None = None
    values: bool = True


class DictDo(msgspec.Struct, tag=233, array_like=True):
    """`op`: ``len`` or ``clear``; answered with Count. ``has`` of a key: Count of 0 or 1."""

    id: str
    op: str
    key: bytes = b""


class QueuePut(msgspec.Struct, tag=236, array_like=True):
    """Append values, all or none, waiting for room at most `timeout_s` (None: without end). Answered with Count: 0 when there was no room."""

    id: str
    partition: str
    values: tuple[bytes, ...]
    timeout_s: float | None = None
    ttl_s: float = 86_400.0


class QueueGet(msgspec.Struct, tag=237, array_like=True):
    """Take up to `n` from the front, waiting for the first at most `timeout_s` (None: without end). Answered with Values: none when nothing came."""

    id: str
    partition: str
    n: int = 1
    timeout_s: float | None = None


class QueuePeek(msgspec.Struct, tag=238, array_like=True):
    """Look at values behind the place `after` without taking them, waiting for one at most `timeout_s`. Answered with Values."""

    id: str
    partition: str
    after: int = 0
    limit: int = 100
    timeout_s: float = 0.0


class QueueDo(msgspec.Struct, tag=239, array_like=True):
    """`op`: ``len``, ``clear`` of a partition, ``total``, ``clear_all``. Answered with Count."""

    id: str
    op: str
    partition: str = DEFAULT_PARTITION


class Entry(msgspec.Struct, array_like=True, gc=False):
    """Something in a volume. `path` is relative to its root; `type` is ``file``, ``dir``, ``link``, ``fifo``, ``socket`` or ``other``; `mtime` Unix seconds;
    `size` bytes.
    """

    path: str
    type: str
    mtime: float
    size: int


class VolumeList(msgspec.Struct, tag=240, array_like=True):
    """What lies at `path`: Entries events, then Done. Of a file: the file itself."""

    id: str
    path: str
    recursive: bool = False


class VolumeRead(msgspec.Struct, tag=241, array_like=True):
    """A part of a file, as Chunk. With `version` (of an earlier Chunk) a file that has changed since is refused."""

    id: str
    path: str
    offset: int
    size: int
    version: str = ""


class NewFile(msgspec.Struct, array_like=True):
    """A whole small file. `mode` None: 0644."""

    path: str
    data: bytes
    mode: int | None = None


class VolumeWrite(msgspec.Struct, tag=242, array_like=True):
    """Write whole files, each by rename. Without `force` a path that is there is refused before anything is written. Answered with Done."""

    id: str
    files: tuple[NewFile, ...]
    force: bool = False


class VolumeUpload(msgspec.Struct, tag=243, array_like=True):
    """A part of a large file. `upload` is the client's name for it; parts come in order; the file appears with the `last`. Answered with Count: bytes there."""

    id: str
    upload: str
    path: str
    offset: int
    data: bytes
    last: bool = False
    mode: int | None = None
    digest: str = ""  #: with the last part: SHA-256 of the whole, hex
    force: bool = False


class VolumeDo(msgspec.Struct, tag=244, array_like=True):
    """`op`: ``copy`` paths to `target`, ``remove`` paths, ``commit`` (to the disk), ``reload``, ``check`` that paths are free, ``quota`` of `target` bytes from
    now on; answered with Done. ``uploaded``: bytes of the upload named in `paths` that are there, as Count. ``digests`` of files: Names, empty where none is.
    ``place``: where it lies on the server's machine, as Names.
    """

    id: str
    op: str
    paths: tuple[str, ...] = ()
    target: str = ""
    recursive: bool = False


class VolumeHistory(msgspec.Struct, tag=245, array_like=True):
    """`op`: ``list`` snapshots, newest first; ``take`` one; ``restore`` or ``delete`` `snapshot`. Answered with Rows: of a snapshot taken, that one."""

    id: str
    op: str = "list"
    snapshot: str = ""
    note: str = ""


class Maybe(msgspec.Struct, tag=250, array_like=True):
    value: bytes | None


class Count(msgspec.Struct, tag=251, array_like=True):
    count: int


class Pairs(msgspec.Struct, tag=252, array_like=True):
    """A page; `more`: there is another one after its last key. Without values each value is empty."""

    pairs: tuple[tuple[bytes, bytes], ...]
    more: bool


class Values(msgspec.Struct, tag=253, array_like=True):
    """Values of a queue; `last` is the place of the last one."""

    values: tuple[bytes, ...]
    last: int = 0


class Chunk(msgspec.Struct, tag=254, array_like=True):
    """Bytes of a file; `size` of the whole; `version` names its content by inode and times."""

    data: bytes
    size: int
    version: str


class Entries(msgspec.Struct, tag=255, array_like=True):
    """An event of VolumeList."""

    request: int
    entries: tuple[Entry, ...]


class Abandon(msgspec.Struct, tag=259, array_like=True):
    """The client no longer waits for the answer of this request: a waiting one is taken back, with no effect."""

    request: int


StateCommand = (
    OpenObject | DropObject | ListObjects | RenameObject | PutSecret | Collect | RotateKey | DictRead | DictWrite | DictScan | DictDo | QueuePut | QueueGet
    | QueuePeek | QueueDo | VolumeList | VolumeRead | VolumeWrite | VolumeUpload | VolumeDo
    | VolumeHistory
)  # fmt: skip
StateAnswer = Opened | Maybe | Count | Pairs | Values | Chunk

#: For annotations of what is sent as a listing's row.
Row = dict[str, Any]
