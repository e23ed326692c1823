"""What a container is made of: its `ContainerSpec` as a configuration of the OCI runtime spec. Pure, but for a look at the mounts of what it binds."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from squall.runtime import seccomp
from squall.runtime.contract import Bind, ContainerSpec, DeviceNode
from squall.runtime.ids import IdRange

#: What root inside needs to own its files, as apt and dpkg do. All of it is bounded by the user namespace.
CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_KILL",
    "CAP_SETFCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
)
PROC_MASKED = ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats")
PROC_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")
#: Programs ask these how many cores there are and how they lie.
SYS = ("/sys/devices/system/cpu", "/sys/devices/system/node")
#: Descriptors: many programs loop over all up to the soft limit, some need more than the usual 1,024.
NOFILE = 65_536
#: So many fewer each may have at most: a function template than an image template, a container than a function template. See `nofile_max`.
_NOFILE_STEP, _NOFILE_SHARE = 2048, 8
#: Directories that every container has, whatever its image; with their modes.
SKELETON = {"proc": 0o755, "sys": 0o755, "dev": 0o755, "tmp": 0o1777, "root": 0o700, "etc": 0o755}


def nofile_max(own: int, steps: int = 2) -> int:
    """The hard limit of descriptors of a container, by this process's own. The kernel lets a user have as many descriptors on their way through sockets as the
    limit of the sender says; all containers are one user, so that whoever is to start them needs to have a higher limit than any of them."""
    return own - steps * min(_NOFILE_STEP, own // _NOFILE_SHARE)


#: Bounds the inotify instances of the user namespace that this runs in (user_namespaces(7), /proc/sys/user).
_BOUND_INOTIFY = 'echo "$1" >/proc/sys/user/max_inotify_instances'
#: Of what the kernel lets the machine's root have, whom it counts those for, too, who made the user namespace.
_INOTIFY_SHARE, _INOTIFY_MIN = 8, 8


def inotify_max() -> int:
    """Inotify instances of a container."""
    return max(_INOTIFY_MIN, int(Path("/proc/sys/fs/inotify/max_user_instances").read_text()) // _INOTIFY_SHARE)


def config(
    spec: ContainerSpec, *, root: Path, ids: IdRange, cgroup: str, network: Path | None, binds: Sequence[Bind], oom_score: int, nofile: int
) -> dict[str, Any]:
    """The bundle's ``config.json``.

    Args:
        root: where the root file system is mounted.
        cgroup: path of the container's group, below the root of each hierarchy; its limits are set there, not here.
        network: a namespace to join; None makes a new one, which has only a loopback.
        binds: what is bound besides `spec.binds`.
        oom_score: how much sooner than others the kernel ends it when the machine's memory is short, 0 to 1000.
        nofile: the hard limit of descriptors.
    """
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("mount", "pid", "ipc", "uts", "user")]
    namespaces.append({"type": "network"} if network is None else {"type": "network", "path": str(network)})
    mapping = [{"containerID": 0, "hostID": ids.first, "size": ids.count}]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(spec.argv),
            "env": [f"{name}={value}" for name, value in spec.env.items()],
            "cwd": spec.workdir,
            "capabilities": {kind: list(CAPABILITIES) if spec.rights else [] for kind in ("bounding", "effective", "permitted")},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": min(NOFILE, nofile), "hard": nofile},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},  # a dump would fill the disk, or start the host's crash handler
            ],
            "noNewPrivileges": True,
            "oomScoreAdj": oom_score,
        },
        "root": {"path": str(root)},
        "hostname": spec.hostname,
        # Inside of the container's namespaces, with its root's rights over them, before its program runs.
        "hooks": {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", _BOUND_INOTIFY, "sh", str(inotify_max())]}]},
        "mounts": [*_system_mounts(), *(_bind(bind) for bind in (*binds, *spec.binds, *(Bind(node.host, node.path) for node in spec.devices)))],
        "linux": {
            "namespaces": namespaces,
            "uidMappings": mapping,
            "gidMappings": mapping,
            "cgroupsPath": f"/{cgroup}",
            "resources": {"devices": [{"allow": False, "access": "rwm"}, *map(_allowed, spec.devices)]},  # the runtime adds the usual harmless ones
            "maskedPaths": [f"/proc/{name}" for name in PROC_MASKED],
            "readonlyPaths": ["/sys", *(f"/proc/{name}" for name in PROC_READ_ONLY)],
            "seccomp": seccomp.profile(),
        },
    }


def _allowed(node: DeviceNode) -> dict[str, Any]:
    return {"allow": True, "type": "c", "major": node.major, "minor": node.minor, "access": "rw"}


def mount_points(spec: ContainerSpec, binds: Sequence[Bind]) -> tuple[set[str], set[str]]:
    """Directories and files that must exist in the root file system for its mounts, relative to it."""
    folders = {*SKELETON, spec.workdir.strip("/")} - {""}
    files: set[str] = set()
    for bind in (*binds, *spec.binds):
        target = os.path.normpath(bind.target).strip("/")
        if not target.startswith(("proc/", "sys/", "dev/")):
            (folders if bind.source.is_dir() else files).add(target)
    return folders, files


def _system_mounts() -> list[dict[str, Any]]:
    usual = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": usual},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=64k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        # As large as the container's memory allows: frameworks pass arrays between processes here.
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": usual},
        {"destination": "/sys", "type": "tmpfs", "source": "tmpfs", "options": [*usual, "mode=755", "size=64k"]},
        *(_bind(Bind(Path(path), path)) for path in SYS if Path(path).is_dir()),
    ]


def _bind(bind: Bind) -> dict[str, Any]:
    # In a user namespace a remount must keep the restrictions of the mount that is bound, or it is refused (mount_namespaces(7), "locked").
    flags = os.statvfs(bind.source).f_flag
    options = ["bind", "rprivate", "ro" if bind.read_only else "rw"]
    options += [name for name, flag in (("nosuid", os.ST_NOSUID), ("nodev", os.ST_NODEV), ("noexec", os.ST_NOEXEC)) if flags & flag]
    return {"destination": bind.target, "type": "bind", "source": str(bind.source), "options": options}
