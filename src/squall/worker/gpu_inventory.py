"""Which GPUs this machine has: asked from NVIDIA's tools, or simulated ones from SQUALL_SIMULATED_GPUS, so that scheduling can be tried anywhere."""

import os
import shutil
import subprocess

from squall.model.errors import InvalidError
from squall.model.resources import parse_gpu

#: Product names of nvidia-smi and what the SDK calls them; the first that occurs in the name counts, so the longer ones come first.
_TYPES = ("L40S", "H200", "H100", "B300", "B200", "A10G", "A10", "L4", "T4")


def gpus() -> dict[str, tuple[str, ...]]:
    """Device ids (UUIDs) by type; empty without any.

    SQUALL_SIMULATED_GPUS, for example ``A100:2,H100``, is taken instead when it is set: containers get no device then, only the reservation.
    """
    simulated = os.environ.get("SQUALL_SIMULATED_GPUS")
    if simulated is not None:
        return _simulated(simulated)
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    asked = subprocess.run(
        [tool, "--query-gpu=uuid,name,memory.total", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=20, check=False
    )
    found: dict[str, tuple[str, ...]] = {}
    for line in asked.stdout.splitlines() if asked.returncode == 0 else ():
        uuid, name, memory = (part.strip() for part in line.split(","))
        kind = type_of(name, int(memory))
        found[kind] = (*found.get(kind, ()), uuid)
    return found


def type_of(name: str, memory_mib: int) -> str:
    """``NVIDIA A100-SXM4-80GB`` -> ``A100-80GB``. A product that the SDK has no name for keeps its own, in one word."""
    if "A100" in name:
        return "A100-80GB" if memory_mib > 50_000 else "A100-40GB"
    return next((kind for kind in _TYPES if kind in name.replace("-", " ").split()), name.removeprefix("NVIDIA ").replace(" ", "-").upper())


def _simulated(text: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        gpu = parse_gpu(part)
        if gpu.type == "any":
            raise InvalidError(f"SQUALL_SIMULATED_GPUS={text!r}: a device has a type, not 'any'")
        have = found.get(gpu.type, ())
        found[gpu.type] = (*have, *(f"simulated-{gpu.type}-{number}" for number in range(len(have), len(have) + gpu.count)))
    return found
