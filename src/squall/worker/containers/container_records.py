"""What has to be known of a running container by a server that finds it after a restart: a file beside its directory, which the container can't see."""

from pathlib import Path

import msgspec

from squall.runtime.files import write_atomically

_SUFFIX = ".record"


class Record(msgspec.Struct, frozen=True):
    """Of a container that is ready. `function` to `devices` as in `Order`; `node` is where it was placed; `squall_version` is what its runner speaks."""

    container: str
    app: str
    tag: str
    function: str
    packed_spec: bytes
    image: str
    layers: tuple[str, ...]
    parameters: bytes
    node: str
    gpu_type: str | None
    devices: tuple[str, ...]
    squall_version: str
    import_s: float = 0.0
    enter_s: float = 0.0


def save(folder: Path, record: Record) -> None:
    """Raises OSError."""
    write_atomically(folder / f"{record.container}{_SUFFIX}", msgspec.json.encode(record).decode(), 0o600)


def forget(folder: Path, container: str) -> None:
    """Idempotent."""
    (folder / f"{container}{_SUFFIX}").unlink(missing_ok=True)


def found(folder: Path) -> list[Record]:
    """All of them; what can't be read is left out."""
    records = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            records.append(msgspec.json.decode(path.read_bytes(), type=Record))
        except (OSError, msgspec.DecodeError):
            continue
    return records
