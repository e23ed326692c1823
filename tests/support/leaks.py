"""What a test can leave behind on this machine, as sets that can be compared: processes, mounts, cgroups, network namespaces, links, descriptors."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

#: Every process that descends from the test run has it in its environment, so that others of this machine are not taken for ours.
MARKER = "SQUALL_TEST_RUN"

#: Set where others run Squall on this machine meanwhile: then only processes are looked at, which can be told apart.
SHARED = "SQUALL_TEST_SHARED"


def snapshot(marker: str) -> dict[str, set[str]]:
    """What is there now. Processes are those of this run; the rest is told by the word ``squall`` in its name."""
    found = {"process": set(_processes(marker))}
    if not os.environ.get(SHARED):
        found |= {"mount": set(_mounts()), "cgroup": set(_cgroups()), "network": set(_networks())}
    return found


def wait_clean(before: dict[str, set[str]], marker: str, timeout_s: float) -> dict[str, set[str]]:
    """What is there beyond `before`, once nothing is or the time is over: an end takes the kernel a moment."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = {kind: names - before.get(kind, set()) for kind, names in snapshot(marker).items() if names - before.get(kind, set())}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def story(left: dict[str, set[str]]) -> str:
    return "left behind:\n" + "\n".join(f"  {kind}: {name}" for kind, names in left.items() for name in sorted(names))


def descriptors() -> dict[int, str]:
    """The open descriptors of this process: number -> what it is."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:  # The descriptor of the listing itself.
            continue
    return found


def _processes(marker: str) -> Iterator[str]:
    wanted = f"{MARKER}={marker}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{entry}/environ").read_bytes()
            if wanted in environment.split(b"\0"):
                command = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield f"{entry} {command.strip()}"
        except OSError:  # It ended while we looked, or it is not ours to read.
            continue


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if "squall" in line:
            yield f"{fields[4]} ({line.split(' - ')[1].split()[0]})"


def _cgroups() -> Iterator[str]:
    root = Path("/sys/fs/cgroup")
    for folder, children, _ in os.walk(root):
        for name in [child for child in children if "squall" in child]:
            yield str(Path(folder, name))
        if len(Path(folder).relative_to(root).parts) >= 4:
            children.clear()


def _networks() -> Iterator[str]:
    namespaces = Path("/run/netns")
    names = os.listdir(namespaces) if namespaces.is_dir() else []
    yield from (f"namespace {name}" for name in names if "squall" in name or name.startswith("sq"))
    yield from (f"link {name}" for name in os.listdir("/sys/class/net") if name.startswith("sq"))
