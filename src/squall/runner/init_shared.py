"""An init that shares the program's memory: a few instructions, and no memory of its own but the kernel's for a process.

A fork would copy the page tables, and the first write to each page after it would copy the page: 6 ms of processor time for a bare runner and 25 ms for one of
200 MiB, where this takes 0.1 ms. Where this is not possible (`split` says so), `init` forks.

The parent stays in the machine code below, which does what `init.serve` does. It never touches the stack or the C library again, as the child goes on with
both. All signals are blocked in it, so that no handler of the program runs in it.
"""

import ctypes
import mmap
import os
import re
import struct
import sys
from functools import cache

from squall.runner.template_calls import thread_id_address

_CLONE_VM, _CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID, _SIGCHLD = 0x100, 0x200000, 0x1000000, 17
_RSEQ, _RSEQ_BYTES, _RSEQ_UNREGISTER, _RSEQ_SIGNATURE = 334, 32, 1, 0x53053053
#: Up to 5.15 a process that crashed killed every other one that shared its memory (the kernel's commit 0258b5fd7c71).
_LINUX_MIN = (5, 16)
_PAGE = mmap.PAGESIZE

#: ``long split(long flags, int *thread_id, struct { long status, signals; char name[16]; } *data)``, by the System V calling convention of x86-64.
_CODE = bytes.fromhex(
    "4989d1 4989f2 31f6 31d2 4531c0"  # r9 = data; the stack stays the same
    "b838000000 0f05"  # rax = clone(flags, 0, 0, thread_id, 0)
    "4885c0 7f01 c3"  # if rax <= 0: return rax, which is the child, or an error
    "4189c0"  # r8 = rax: the program's number
    "bf0f000000 498d7110 b89d000000 0f05"  # prctl(PR_SET_NAME, data->name)
    "31ff beffffffff 31d2 b8b4010000 0f05"  # close_range(0, ~0, 0)
    "498d7908 31f6 31d2 41ba08000000 b880000000 0f05"  # wait: rax = rt_sigtimedwait(&data->signals, 0, 0, 8)
    "83f811 7412"  # if rax == SIGCHLD: goto collect
    "85c0 7ee2"  # if rax <= 0: goto wait
    "4489c7 89c6 b83e000000 0f05 ebd4"  # kill(r8, rax); goto wait
    "bfffffffff 4c89ce ba01000000 4531d2 b83d000000 0f05"  # collect: rax = wait4(-1, &data->status, WNOHANG, 0)
    "85c0 7eb9"  # if rax <= 0: goto wait
    "4439c0 75e0"  # if rax != r8: goto collect
    "418b39 89f8 83e07f 7408"  # rdi = data->status; if not rdi & 127: goto exited
    "8db880000000 eb09"  # rdi = 128 + (rdi & 127); goto exit
    "c1ef08 81e7ff000000"  # exited: rdi = rdi >> 8 & 255
    "b8e7000000 0f05"  # exit: exit_group(rdi)
)
_DATA = struct.pack("=qQ16s", 0, ~0 & (1 << 64) - 1, b"squall-init")


def split() -> bool:
    """Go on as a child of this process, in the same memory; this process is the init. All signals are to be blocked. False: that is not possible here.

    Raises:
        OSError: there may be no more processes.
    """
    means = prepare()
    if means is None or (means.area and means.restartable(_RSEQ_UNREGISTER)):
        return False
    thread_id = thread_id_address()
    flags = _CLONE_VM | _SIGCHLD | (_CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID if thread_id else 0)
    ctypes.pythonapi.PyOS_BeforeFork()
    result = means.code(flags, thread_id, means.data)
    if result == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    if means.area:
        means.restartable(0)
    if result < 0:
        raise OSError(-result, f"clone: {os.strerror(-result)}")
    return True


class Means:
    """What `split` needs.

    Attributes:
        code, data: addresses of both pages.
        area: where the kernel tells the main thread its processor (rseq(2)), which the init must not have told there too; 0 where there is no such place.
    """

    def __init__(self, libc: ctypes.CDLL, address: int) -> None:
        self.code = ctypes.PYFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)(address)
        self.data = address + _PAGE
        self.area, self._syscall = _restartable_area(libc), libc.syscall

    def restartable(self, flags: int) -> bool:
        """Whether the area could not be registered or, by the flag, unregistered."""
        args = (ctypes.c_void_p(self.area), ctypes.c_long(_RSEQ_BYTES), ctypes.c_long(flags), ctypes.c_long(_RSEQ_SIGNATURE))
        return bool(self._syscall(ctypes.c_long(_RSEQ), *args))


@cache
def prepare() -> Means | None:
    """What takes a while; it stays true in copies of this process. None: not possible here."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    linux = tuple(map(int, found.groups())) if found else (0,)
    if os.uname().machine != "x86_64" or sys.maxsize < 1 << 32 or linux < _LINUX_MIN:
        return None
    libc = ctypes.PyDLL(None)
    address = _load(libc)
    return None if address is None else Means(libc, address)


def _load(libc: ctypes.CDLL) -> int | None:
    """Address of the code, with its data a page further; None where no memory may be made executable."""
    pages = mmap.mmap(-1, 2 * _PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages[: len(_CODE)] = _CODE
    pages[_PAGE : _PAGE + len(_DATA)] = _DATA
    address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(_PAGE), mmap.PROT_READ | mmap.PROT_EXEC):
        return None
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(pages))  # for good: the parent runs there while the program's interpreter ends
    return address


def _restartable_area(libc: ctypes.CDLL) -> int:
    try:
        offset, size = ctypes.c_ssize_t.in_dll(libc, "__rseq_offset").value, ctypes.c_uint.in_dll(libc, "__rseq_size").value
    except ValueError:  # another C library, or an older one
        return 0
    libc.pthread_self.restype = ctypes.c_ulong
    return int(libc.pthread_self()) + offset if size else 0
