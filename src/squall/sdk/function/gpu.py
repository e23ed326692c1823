"""Old spellings of GPUs, ``gpu=gpu.A100(count=2)``: objects that stand for the string ``"A100:2"``."""

import warnings

from squall.model.errors import DeprecationError, InvalidError


class _GpuConfig:
    """Base of the old objects. `str()` gives what ``gpu=`` takes."""

    name = "any"

    def __init__(self, count: int = 1) -> None:
        self._set(self.name, count)

    def _set(self, name: str, count: int) -> None:
        self.count = count
        self._text = name if count == 1 else f"{name}:{count}"
        warnings.warn(f'gpu.{type(self).__name__}(...) is the old spelling; write gpu="{self._text}"', DeprecationError, stacklevel=3)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f'"{self._text}"'


class T4(_GpuConfig):
    name = "T4"


class L4(_GpuConfig):
    name = "L4"


class A10G(_GpuConfig):
    name = "A10G"


class L40S(_GpuConfig):
    name = "L40S"


class H100(_GpuConfig):
    name = "H100"


class Any(_GpuConfig):
    """Any GPU."""


class A100(_GpuConfig):
    """`size` is ``"40GB"`` or ``"80GB"``; None takes either."""

    def __init__(self, *, count: int = 1, size: str | None = None) -> None:
        if size not in (None, "40GB", "80GB"):
            raise InvalidError(f'size={size!r} of an A100 is neither "40GB" nor "80GB"')
        self._set("A100" if size is None else f"A100-{size}", count)
