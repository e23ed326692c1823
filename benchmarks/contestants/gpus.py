"""What `scripts/gpu-check` runs in containers; the module that they get."""

import importlib
import os
import time
from typing import Any

import squall

app = squall.App("gpu-check")
image = squall.Image.debian_slim().pip_install("torch", "numpy")


@app.function(gpu="any", image=image, single_use_containers=True, timeout=600)
def look() -> dict[str, Any]:
    """In a container: the GPUs that torch sees, after a gigabyte of each was used."""
    torch: Any = importlib.import_module("torch")
    seen = []
    for number in range(torch.cuda.device_count()):
        block = torch.ones(1 << 28, device=f"cuda:{number}")
        assert float(block.sum()) == 1 << 28
        seen.append(f"GPU-{torch.cuda.get_device_properties(number).uuid}")
    time.sleep(2)  # so that two at a time are two at a time
    return {"seen": seen, "asked": os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")}
