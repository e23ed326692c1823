"""Identifiers: a prefix that says what it names, then a UUIDv7 in hex (RFC 9562, section 5.7).

Ids sort by the millisecond of their making. The maker passes in time and entropy, so that simulated runs are repeatable.
"""

from typing import NewType

AppId = NewType("AppId", str)
FunctionId = NewType("FunctionId", str)
CallId = NewType("CallId", str)
ContainerId = NewType("ContainerId", str)
ImageId = NewType("ImageId", str)
LayerKey = NewType("LayerKey", str)

APP, FUNCTION, CALL, CONTAINER, IMAGE, CLIENT = "ap", "fu", "fc", "ct", "im", "cl"


def make_id(prefix: str, now_ms: int, entropy: bytes) -> str:
    """An id such as ``fc-019353…``.

    Args:
        prefix: what the id names, for example ``CALL``.
        now_ms: Unix time in milliseconds.
        entropy: ten random bytes; the version and variant bits are laid over them.
    """
    body = bytearray(now_ms.to_bytes(6, "big") + entropy)
    body[6] = 0x70 | (body[6] & 0x0F)
    body[8] = 0x80 | (body[8] & 0x3F)
    return f"{prefix}-{body.hex()}"


def input_id(call: str, index: int) -> str:
    """The id of input `index` of a call: it is derived, so that naming an input costs nothing."""
    return f"in-{call[3:]}-{index}"


def made_at(name: str) -> float | None:
    """When an id was made, as Unix seconds; None: it is none of ours."""
    digits = name.partition("-")[2]
    try:
        return int(digits[:12], 16) / 1000 if len(digits) == 32 else None
    except ValueError:
        return None
