"""How a fresh process closes itself in: a root of its own, its own /proc and /dev, and at the end no right that could undo any of it.

Standard library only: the agent's helper runs it in the host's Python before there is a container.
"""

import contextlib
import fcntl
import os
import resource
import socket
import struct
from typing import Any

from squall.runner import template_calls as calls

_USUAL = calls.MS_NOSUID | calls.MS_NODEV | calls.MS_NOEXEC

Order = dict[str, Any]
"""What the agent asks for, as JSON over a sequenced-packet socket. The sender of copies gets no more than ``{"kind": "instance" or "template"}`` (the
agent's helper also ``namespace``, a template also ``import``) with the status socket of the copy. The copy gets the rest there, with these descriptors: stdout,
stderr, network namespace, then one detached mount for each of `mounts`, the root first.

    at: directory of the sender's file tree where the new root is put for a moment
    mounts: targets; "" for the root
    hostname, workdir, env, argv (of a program to execute; empty: be a runner)
    masked, read_only: paths
    filter: seccomp filter, hex (empty: the one in force is enough); capabilities: bit mask of those to be kept
    nofile: soft and hard limit of descriptors
"""


def enter_network(fds: list[int]) -> None:
    """Join the prepared network namespace; takes its descriptor from `fds`."""
    namespace = fds.pop(2)
    calls.setns(namespace, calls.CLONE_NEWNET)
    os.close(namespace)


def enter_root(order: Order, mounts: list[int]) -> None:
    """In a new mount namespace and as a member of a new pid namespace: make the first mount the root and attach the others. Closes the descriptors."""
    calls.mount("none", "/", "", calls.MS_REC | calls.MS_PRIVATE)
    calls.move_mount(mounts[0], order["at"])
    os.chdir(order["at"])
    calls.pivot_here()
    # From here on every path is looked up inside the new root, whatever links the image has. The kernel lets a new /proc be mounted only where a fully
    # visible one is still there, so the old root goes last.
    calls.mount("proc", "/proc", "proc", _USUAL)
    for target, mount in zip(order["mounts"][1:], mounts[1:], strict=True):
        calls.move_mount(mount, target)
    calls.mount("devpts", "/dev/pts", "devpts", calls.MS_NOSUID | calls.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    calls.mount("shm", "/dev/shm", "tmpfs", calls.MS_NOSUID | calls.MS_NODEV, "mode=1777")
    calls.mount("mqueue", "/dev/mqueue", "mqueue", _USUAL)
    calls.umount(".", calls.MNT_DETACH)
    for mount in mounts:
        os.close(mount)
    os.chdir("/")


def hide(order: Order) -> None:
    """Cover what of /proc is nobody's business."""
    for path in order["masked"]:
        with contextlib.suppress(FileNotFoundError):
            if os.path.isdir(path):
                calls.mount("tmpfs", path, "tmpfs", calls.MS_RDONLY | _USUAL, "size=0")
            else:
                calls.mount("/dev/null", path, "", calls.MS_BIND)
    for path in order["read_only"]:
        with contextlib.suppress(FileNotFoundError):
            calls.mount(path, path, "", calls.MS_BIND | calls.MS_REC)
            calls.mount("none", path, "", calls.MS_REMOUNT | calls.MS_BIND | calls.MS_RDONLY | _USUAL)


def take_streams(fds: list[int]) -> None:
    """Descriptors 0, 1 and 2: nothing, stdout and stderr."""
    null = os.open("/dev/null", os.O_RDONLY)
    for number, fd in enumerate((null, fds[0], fds[1])):
        os.dup2(fd, number)
        os.close(fd)


def close_up(order: Order) -> None:
    """Limits, then no rights beyond those that the order keeps, then the filter."""
    resource.setrlimit(resource.RLIMIT_NOFILE, order["nofile"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    calls.limit_capabilities(order["capabilities"])
    if order["filter"]:
        calls.install_filter(bytes.fromhex(order["filter"]))


def loopback_up() -> None:
    """`ip link set lo up`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh22x", b"lo", 1 | 64))  # SIOCSIFFLAGS: IFF_UP, IFF_RUNNING
