"""What has to be known of a running container by a server that finds it after a restart: a file beside its directory, which the container can't see."""

from pathlib import Path

import msgspec

from squall.runtime.files import write_atomically
from squall.wire.agent import ContainerRecord

_SUFFIX = ".record"


def save(folder: Path, record: ContainerRecord) -> None:
    """Raises OSError."""
    write_atomically(folder / f"{record.container}{_SUFFIX}", msgspec.json.encode(record).decode(), 0o600)


def forget(folder: Path, container: str) -> None:
    """Idempotent."""
    (folder / f"{container}{_SUFFIX}").unlink(missing_ok=True)


def found(folder: Path) -> list[ContainerRecord]:
    """All of them; what can't be read is left out."""
    records = []
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            records.append(msgspec.json.decode(path.read_bytes(), type=ContainerRecord))
        except (OSError, msgspec.DecodeError):
            continue
    return records
