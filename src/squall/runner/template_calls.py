"""The system calls of a template process, which has nothing but the standard library. They hold the interpreter lock: a template has one thread.

Numbers: the kernel's tables for x86-64 and for the architectures of the generic table (arm64, riscv64); from 424 on they are the same everywhere.
"""

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Callable

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_CLONE_PARENT, _CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID, _SIGCHLD = 0x8000, 0x200000, 0x1000000, 17
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2

_IS_X86 = platform.machine() == "x86_64"
_CLONE, _PIVOT_ROOT, _CAPSET, _SECCOMP = (56, 155, 126, 317) if _IS_X86 else (220, 41, 91, 277)
_MOVE_MOUNT, _AT_FDCWD, _MOVE_MOUNT_F_EMPTY_PATH = 429, -100, 4
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_GET_TID_ADDRESS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 40, 47, 4
_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP = 28, 4
_CAPABILITY_VERSION_3 = 0x20080522
_SECCOMP_SET_MODE_FILTER = 1

_libc = ctypes.PyDLL(None, use_errno=True)


def _check(result: int, call: str, path: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", path)
    return result


def _syscall(call: str, number: int, *args: int | bytes | None, path: str | None = None) -> int:
    values = [ctypes.c_long(arg) if isinstance(arg, int) else ctypes.c_char_p(arg) for arg in args]
    return _check(_libc.syscall(ctypes.c_long(number), *values), call, path)


def thread_id_address() -> int:
    """Where the C library keeps the main thread's id: the kernel has to write the new one there in a child, as `fork` has it do. 0: unknown."""
    found = ctypes.c_ulong(0)
    if _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(found), 0, 0, 0) == 0:  # needs CONFIG_CHECKPOINT_RESTORE
        return found.value
    return 0


def clone_sibling(namespaces: int, body: Callable[[], None]) -> int:
    """A copy of this process in new namespaces, whose parent is this process's parent. Runs `body` there and ends with status 1 if it returns or raises.

    Only for a process with one thread that has forked before (`settle`), so that no handler of `fork` is still needed. Returns the child's pid.
    """
    flags = namespaces | _CLONE_PARENT | _SIGCHLD
    address = thread_id_address()
    if address:
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    none = ctypes.c_long(0)
    where, flag = ctypes.c_long(address), ctypes.c_long(flags)
    # The generic order of arguments has the thread's storage before the child's address.
    rest = (where, none) if _IS_X86 else (none, where)
    pid = int(_libc.syscall(ctypes.c_long(_CLONE), flag, none, none, *rest))
    if pid == 0:
        try:
            python.PyOS_AfterFork_Child()
            body()
        finally:
            os._exit(1)
    number = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return pid


def settle() -> None:
    """Fork once the ordinary way: libraries with threads of their own (OpenBLAS) then stop them, as they do before any fork, and start them again at need."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def setns(namespace: int, kind: int) -> None:
    _check(_libc.setns(namespace, kind), "setns")


def become_owner(number: int) -> None:
    """Be this user and group in effect, with all rights kept: whose a new user namespace is, which its maker's real ids stay out of."""
    _check(_libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "prctl(PR_SET_SECUREBITS)")
    os.setegid(number)
    os.seteuid(number)


def raise_descriptors() -> None:
    """Let this process have as many descriptors as it may. By this the kernel bounds, too, how many its user has on their way between processes (unix(7),
    ETOOMANYREFS): who starts containers may have more on their way than any container, so that none can keep it from passing on another."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def sethostname(name: str) -> None:
    data = name.encode()
    _check(_libc.sethostname(data, len(data)), "sethostname")


def mount(source: str, target: str, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()), "mount", target)


def umount(target: str, flags: int) -> None:
    _check(_libc.umount2(target.encode(), flags), "umount", target)


def move_mount(mount_fd: int, target: str) -> None:
    """Attach a detached mount."""
    _syscall("move_mount", _MOVE_MOUNT, mount_fd, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH, path=target)


def pivot_here() -> None:
    """Make the working directory's mount the root; the old one lies over it until `umount(".")` (pivot_root(2), "pivot_root(".", ".")")."""
    _syscall("pivot_root", _PIVOT_ROOT, b".", b".")


def limit_capabilities(kept: int) -> None:
    """Keep these (a bit mask) in the permitted, effective and bounding sets, and no others anywhere."""
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for number in range(64):
        if not kept >> number & 1 and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) < 0:
            if ctypes.get_errno() == errno.EINVAL:
                break  # beyond the last one that this kernel has
            if ctypes.get_errno() == errno.EPERM:
                raise OSError(errno.EPERM, "prctl(PR_CAPBSET_DROP)")
    head = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    _syscall("capset", _CAPSET, head, struct.pack("=6I", low, low, 0, high, high, 0))


def install_filter(program: bytes) -> None:
    """Put a seccomp filter (an array of ``struct sock_filter``) in force for good, after `no_new_privs`."""
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    instructions = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    _syscall("seccomp", _SECCOMP, _SECCOMP_SET_MODE_FILTER, 0, described)
