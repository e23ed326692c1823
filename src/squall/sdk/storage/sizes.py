"""Amounts of bytes as users write them."""

import re

from squall.model.errors import InvalidError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}


def parse_size(parameter: str, size: int | str) -> int:
    """Bytes of a number, or of text with a unit.

    Raises:
        InvalidError: naming `parameter`.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)\s*", size, re.IGNORECASE) if isinstance(size, str) else None
    unit = None if found is None else _UNITS.get(found[2].upper() + ("B" if found[2] and not found[2].upper().endswith("B") else ""))
    if found is None or unit is None:
        raise InvalidError(f"{parameter}={size!r} is not a size; write a number of bytes, or for example 500MB or 10GiB")
    return int(float(found[1]) * unit)
