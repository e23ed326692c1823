"""Functions that look at the container that they are in: tests compare containers that were copied from one process."""

import os
import random
import secrets
import socket
import ssl
import sys
import tempfile
import threading
import time
import uuid

import squall

app = squall.App("forking")

IMPORTED_BY = os.getpid()
#: Made at import: the same in all copies of a process, different where each imports by itself.
AT_IMPORT = random.random()
with open("/tmp/written-at-import", "w") as file:
    file.write("by the import")


@app.function(single_use_containers=True)
def draw() -> dict[str, object]:
    ssl_bytes = ssl.RAND_bytes(8)
    return {
        "at_import": AT_IMPORT,
        "random": random.random(),
        "uuid4": str(uuid.uuid4()),
        "uuid1": str(uuid.uuid1()),
        "secrets": secrets.token_hex(8),
        "ssl": ssl_bytes.hex(),
        "tempfile": tempfile.mktemp(),
        "urandom": os.urandom(8).hex(),
    }


@app.function(single_use_containers=True, env={"COLOUR": "green"}, ephemeral_disk=64)
def surroundings() -> dict[str, object]:
    disk = os.statvfs("/root")
    before = sorted(os.listdir("/tmp"))
    with open("/tmp/mine", "w") as file:
        file.write("x")
    return {
        "pid": os.getpid(),
        "main_thread": threading.main_thread().native_id,
        "hostname": socket.gethostname(),
        "tmp": before,
        "written": open("/tmp/written-at-import").read(),
        "cwd": os.getcwd(),
        "disk_mib": disk.f_blocks * disk.f_frsize >> 20,
        "colour": os.environ["COLOUR"],
        "container": os.environ["SQUALL_CONTAINER_ID"],
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "status": {
            line.split(":")[0]: line.split(":")[1].strip() for line in open("/proc/self/status") if line.startswith(("Cap", "NoNew", "Seccomp", "NSpid"))
        },
        "mounts": len(open("/proc/self/mounts").readlines()),
        "first_in_path": sys.path[0],
    }


@app.function(single_use_containers=True, fork=False)
def alone() -> float:
    return AT_IMPORT


@app.function(runtime="gvisor", env={"COLOUR": "green"}, timeout=60)
def under_gvisor(spin_s: float = 0.0) -> dict[str, object]:
    """Python under another kernel, with the network, a call from inside and everything else as usual. Spins for so long first."""
    until = time.monotonic() + spin_s
    while time.monotonic() < until:
        pass
    with open("/proc/version") as file:
        kernel = file.read()
    with open("/proc/mounts") as file:
        root = file.readline().split()[2]
    return {
        "container": os.environ["SQUALL_CONTAINER_ID"],
        "kernel": kernel,
        "root": root,
        "colour": os.environ["COLOUR"],
        "name": socket.gethostbyname("localhost"),
        "of_another": alone.remote(),
    }


@app.function(single_use_containers=True)
def wake_from_a_thread() -> int:
    """A signal to the main thread by its id, as the C library keeps it."""
    import signal

    got: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    thread = threading.Thread(target=lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1))
    thread.start()
    thread.join()
    return len(got)


@app.cls(single_use_containers=True, enable_memory_snapshot=True)
class Snapped:
    @squall.enter(snap=True)
    def before(self) -> None:
        self.snapped = random.random()

    @squall.enter()
    def after(self) -> None:
        self.entered = random.random()

    @squall.method()
    def both(self) -> tuple[float, float]:
        return self.snapped, self.entered
