"""Whether this process may be copied: decided by looking at what it holds, and said in a sentence when it may not."""

import os
import stat

#: Device numbers of /dev/null, zero, full, random, urandom (Documentation/admin-guide/devices.txt): a copy of these is as good as the original.
_HARMLESS = {os.makedev(1, minor) for minor in (3, 5, 7, 8, 9)}


def obstacle(known: set[int]) -> str | None:
    """What of this process a copy would lack or share; None if nothing.

    Args:
        known: descriptors that belong to the template itself.
    """
    tasks = os.listdir("/proc/self/task")
    if len(tasks) > 1:
        return f"{len(tasks) - 1} {'thread runs' if len(tasks) == 2 else 'threads run'} after the import ({_thread_names(tasks)})"
    with open(f"/proc/self/task/{tasks[0]}/children") as file:
        if file.read().strip():
            return "a process that the import started still runs"
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        if int(name) not in known and (what := _held(int(name))):
            return f"the import left {what} open"
    return None


def _held(fd: int) -> str | None:
    try:
        path, status = os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd)
    except OSError:
        return None  # the listing's own
    mode = status.st_mode
    if stat.S_ISSOCK(mode):
        return f"a socket ({path})"
    if stat.S_ISCHR(mode):
        return None if status.st_rdev in _HARMLESS else f"the device {path}" + (" (CUDA is initialised)" if "nvidia" in path else "")
    kinds = {"anon_inode:inotify": "an inotify handle", "anon_inode:[io_uring]": "an io_uring", "anon_inode:[eventpoll]": "an event loop (epoll)"}
    if path in kinds:
        return kinds[path]
    if path.startswith("anon_inode:"):
        return f"a handle ({path.removeprefix('anon_inode:').strip('[]')})"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return f"the file {path}"


def _thread_names(tasks: list[str]) -> str:
    names = set()
    for task in tasks:
        if task != str(os.getpid()):
            with open(f"/proc/self/task/{task}/comm") as file:
                names.add(file.read().strip())
    return ", ".join(sorted(names))
