"""A made-up CDI file: two GPUs whose devices are /dev/null and /dev/zero, with libraries, variables and hooks as NVIDIA's toolkit writes them."""

import json
import os
from pathlib import Path


def write_cdi(folder: Path, names: tuple[str, str], *, yaml: bool = False) -> Path:
    """Write it and the files that it speaks of; returns the directory to look in."""
    libraries = folder / "libraries"
    libraries.mkdir(parents=True)
    (libraries / "libfake.so.550.1").write_text("a library")
    (libraries / "libfake.so.1").symlink_to("libfake.so.550.1")
    (libraries / "firmware.bin").write_text("firmware")
    for path in (folder, libraries):
        path.chmod(0o755)
    inside = "/usr/lib/x86_64-linux-gnu"
    hook = {"hookName": "createContainer", "path": "/usr/bin/nvidia-ctk"}
    spec = {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [
            {"name": name, "containerEdits": {"deviceNodes": [{"path": f"/dev/fake{number}", "hostPath": host}], "env": [f"FAKE_{number}=here"]}}
            for number, (name, host) in enumerate(zip(names, ("/dev/null", "/dev/zero"), strict=True))
        ],
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [{"path": "/dev/fakes/control", "hostPath": "/dev/full", "fileMode": 0o600}],
            "mounts": [
                {"hostPath": str(libraries / "libfake.so.550.1"), "containerPath": f"{inside}/libfake.so.550.1", "options": ["ro", "nosuid", "nodev", "bind"]},
                {"hostPath": str(libraries / "firmware.bin"), "containerPath": "/lib/firmware/fake/firmware.bin", "options": ["ro", "bind"]},
            ],
            "hooks": [
                hook | {"args": ["nvidia-ctk", "hook", "create-symlinks", "--link", f"libfake.so.1::{inside}/libfake.so", "--link=../fake::/opt/fake/link"]},
                hook | {"args": ["nvidia-ctk", "hook", "update-ldcache", "--folder", inside]},
                hook | {"args": ["nvidia-ctk", "hook", "chmod", "--mode", "755", "--path", "/dev/fakes"]},
            ],
        },
    }
    specs = folder / "cdi"
    specs.mkdir()
    if yaml:
        import msgspec

        (specs / "nvidia.yaml").write_bytes(msgspec.yaml.encode(spec))
    else:
        (specs / "nvidia.json").write_text(json.dumps(spec))
    return specs


#: Run in a container: everything that the file brings, as far as it is there.
LOOK = """
import json, os
def content(path):
    try:
        with open(path, "rb") as file:
            return file.read(4).hex()
    except OSError as error:
        return type(error).__name__
def writes(path):
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(b"x")
    except OSError as error:
        return os.strerror(error.errno)
    return "written"
library = "/usr/lib/x86_64-linux-gnu/libfake.so"
found = {
    "devices": [name for name in ("fake0", "fake1", "fakes") if os.path.exists("/dev/" + name)],
    "zero": content("/dev/fake1"), "control": [content("/dev/fakes/control"), writes("/dev/fakes/control")], "null": content("/dev/null"),
    "library": [open(path).read() for path in (library + ".550.1", library + ".1", library)],
    "firmware": open("/lib/firmware/fake/firmware.bin").read(), "link": os.readlink("/opt/fake/link"),
    "env": {name: os.environ[name] for name in ("FAKE_0", "FAKE_1", "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if name in os.environ},
    "bash": os.path.exists("/bin/bash"),
}
"""

#: What `LOOK` finds with the second device only.
SECOND = {
    "devices": ["fake1", "fakes"],
    "zero": "00000000",
    "control": ["00000000", os.strerror(28)],
    "null": "",
    "library": ["a library"] * 3,
    "firmware": "firmware",
    "link": "../fake",
    "env": {"FAKE_1": "here", "NVIDIA_VISIBLE_DEVICES": "void"},
    "bash": True,
}
