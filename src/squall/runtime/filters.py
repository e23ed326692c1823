"""Seccomp filters as programs for the kernel, made by libseccomp from the profile that container runtimes get as data."""

import ctypes
import ctypes.util
import os
from functools import cache
from typing import Any

from squall.runtime import kernel, seccomp

#: What a template needs beyond containers: to make namespaces and root file systems for its copies. It has them in its user namespace only.
_TEMPLATE_CALLS = ("umount2", "move_mount", "pivot_root", "sethostname")
#: The mount, pid, ipc and uts namespaces are the only ones that it makes: one in a user namespace of its own would have every right there.
_OTHER_NAMESPACES = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNET | kernel.CLONE_NEWCGROUP
_READ_ONLY_AGAIN = kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY
_ERRNO, _ALLOW = 0x00050000, 0x7FFF0000
_COMPARE = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}
_OPTIMIZE, _BINARY_TREE = 8, 2  # SCMP_FLTATR_CTL_OPTIMIZE: some 9 comparisons for a call, and not up to 350


class _Comparison(ctypes.Structure):
    _fields_ = (("argument", ctypes.c_uint), ("operator", ctypes.c_int), ("first", ctypes.c_uint64), ("second", ctypes.c_uint64))


@cache
def library() -> ctypes.CDLL | None:
    """libseccomp, which runc and crun bring along; None where it is missing."""
    try:
        found = ctypes.CDLL(ctypes.util.find_library("seccomp") or "libseccomp.so.2")
    except OSError:
        return None
    found.seccomp_init.restype = ctypes.c_void_p
    found.seccomp_release.argtypes = (ctypes.c_void_p,)
    found.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    found.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    found.seccomp_rule_add_array.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
    return found


@cache
def container_filter() -> bytes:
    """The filter of containers."""
    return compile_filter(seccomp.profile())


@cache
def template_filter() -> bytes:
    """The filter of templates, whose copies put the containers' one on top.

    It is in force before any user's code is imported. What it denies, nothing that comes of an import can do, whatever becomes of the steps that copies take by
    themselves: make a user namespace, or make what is mounted read-only writable.
    """
    profile = seccomp.profile()
    profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"] != ["clone"]]
    profile["syscalls"].append({"names": list(_TEMPLATE_CALLS), "action": "SCMP_ACT_ALLOW"})
    for name, position, mask, value in (
        ("clone", 0, _OTHER_NAMESPACES, 0),
        ("unshare", 0, _OTHER_NAMESPACES | kernel.CLONE_NEWTIME, 0),
        ("setns", 1, 0xFFFFFFFF, kernel.CLONE_NEWNET),
        ("mount", 3, kernel.MS_REMOUNT, 0),
        ("mount", 3, _READ_ONLY_AGAIN, _READ_ONLY_AGAIN),
    ):
        condition = {"index": position, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
        profile["syscalls"].append({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [condition]})
    return compile_filter(profile)


def compile_filter(profile: dict[str, Any]) -> bytes:
    """An array of ``struct sock_filter``, for this machine's architecture.

    Raises:
        OSError: libseccomp is missing or refuses.
    """
    lib = library()
    if lib is None:
        raise OSError(0, "libseccomp.so.2 is not installed; install it with: apt install libseccomp2")
    context = lib.seccomp_init(_ERRNO | profile["defaultErrnoRet"])
    try:
        lib.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)
        for rule in profile["syscalls"]:
            action = _ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else _ERRNO | rule["errnoRet"]
            comparisons = [_Comparison(arg["index"], _COMPARE[arg["op"]], arg["value"], arg["valueTwo"]) for arg in rule.get("args", ())]
            array = (_Comparison * max(1, len(comparisons)))(*comparisons)
            for name in rule["names"]:
                number = lib.seccomp_syscall_resolve_name(name.encode())
                if number < 0:
                    continue  # not on this architecture, or newer than the library
                code = lib.seccomp_rule_add_array(context, action, number, len(comparisons), ctypes.byref(array))
                if code:
                    raise OSError(-code, f"seccomp rule for {name}: {os.strerror(-code)}")
        file = os.memfd_create("squall-filter", os.MFD_CLOEXEC)
        try:
            code = lib.seccomp_export_bpf(context, file)
            if code:
                raise OSError(-code, f"seccomp filter: {os.strerror(-code)}")
            return os.pread(file, os.fstat(file).st_size, 0)
        finally:
            os.close(file)
    finally:
        lib.seccomp_release(context)
