"""What a container asks of its machine: cores, memory, GPUs. Validated where the user writes it."""

import re

import msgspec

from squall.model.errors import InvalidError

MIB = 1 << 20

#: GPU types that Modal has. A machine may have others, which are asked for by their product's name or a part of it: ``RTX-4090``, ``A6000``.
GPU_TYPES = ("T4", "L4", "A10", "A10G", "L40S", "A100", "A100-40GB", "A100-80GB", "H100", "H100!", "H200", "B200", "B300", "any")
_GPU = re.compile(r"^([A-Za-z0-9]+(?:-[A-Za-z0-9]+)*!?)(?::([0-9]+))?$")


class Gpu(msgspec.Struct, frozen=True):
    """GPUs of one type. `type` is in upper case, or ``any``."""

    type: str
    count: int = 1

    def __str__(self) -> str:
        return self.type if self.count == 1 else f"{self.type}:{self.count}"


class Resources(msgspec.Struct, frozen=True):
    """A container's request and limits.

    `cpu_request` is in cores and reserves; `cpu_limit` throttles (None: only shares decide). `memory_request` is in MiB; `memory_limit` is where the
    kernel ends the container (None: the machine's). `disk_limit_mib` bounds what is written outside of volumes (None: the machine's disk does).
    `gpus` are alternatives, best first; empty means none.
    """

    cpu_request: float = 0.125
    cpu_limit: float | None = None
    memory_request_mib: int = 128
    memory_limit_mib: int | None = None
    disk_limit_mib: int | None = None
    gpus: tuple[Gpu, ...] = ()


def parse_gpu(value: str) -> Gpu:
    """``"a100:2"`` -> two A100.

    Raises:
        InvalidError: not of the form TYPE[:COUNT], or a count outside 1-8. Whether a machine has the type is seen when a container is placed.
    """
    match = _GPU.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InvalidError(f'gpu={value!r} is not of the form "TYPE" or "TYPE:COUNT", for example gpu="A100:2"')
    name = "any" if match[1].lower() == "any" else match[1].upper()
    count = int(match[2] or 1)
    if not 1 <= count <= 8:
        raise InvalidError(f"gpu={value!r} asks for {count} GPUs; a container can have 1 to 8")
    return Gpu(name, count)
