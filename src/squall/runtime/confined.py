"""A FUSE file system's program without rights: an own user, no capabilities, and a root directory, processes and network of its own.

The server mounts the file system itself and hands over the descriptor, since mounting takes rights. libfuse 2 has no option for that, but asks a program
named fusermount for the descriptor where it may not mount; here this is a script that gives the one that is there.
"""

import os
import sys
from pathlib import Path

from squall.runtime import kernel
from squall.runtime.ids import ALL

#: Nobody else's: the last id of what Squall has on the machine.
USER = ALL.end - 1
#: The program's place for the mount, inside; it is never used.
PLACE = "/mnt"
_DESCRIPTOR = "SQUALL_FUSE"
_FUSERMOUNT = f"""#!{os.path.realpath(sys.executable)} -IS
import array, os, socket
given = socket.socket(fileno=int(os.environ["_FUSE_COMMFD"]))
given.sendmsg([b"0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [int(os.environ["{_DESCRIPTOR}"])]))])
"""
#: Runs in new mount and pid namespaces. Arguments: a directory for the root, one of the program's own files, Python's, the program and its arguments.
_ENTER = f"""
set -e
root=$1; own=$2; python=$3; shift 3
mount --make-rprivate /
mount -t tmpfs -o nosuid,mode=755,size=1m none "$root"
for place in /usr /bin /sbin /lib /lib64 /etc/ssl /etc/ca-certificates /etc/nsswitch.conf "$python"; do
    [ -e "$place" ] || continue
    if [ -L "$place" ]; then cp -P "$place" "$root$place"; continue; fi
    [ -e "$root$place" ] && continue
    mkdir -p "$root${{place%/*}}"
    if [ -d "$place" ]; then mkdir "$root$place"; else : > "$root$place"; fi
    mount --bind "$place" "$root$place"
    mount -o remount,bind,ro,nosuid "$root$place"
done
mkdir -p "$root/etc" "$root/dev" "$root/proc" "$root/tmp" "$root{PLACE}" "$root/old"
for place in /dev/null /dev/random /dev/urandom; do : > "$root$place"; mount --bind "$place" "$root$place"; done
mount -t proc -o nosuid,nodev,noexec none "$root/proc"
mount --bind "$own/tmp" "$root/tmp"
chown {USER}:{USER} "$root{PLACE}"
cp "$own/resolv.conf" "$own/hosts" "$root/etc/"
mount --bind "$own/fusermount" "$root$(readlink -f "$(command -v fusermount)")"
cd "$root"
pivot_root . old
umount -l /old
mount -o remount,ro,nosuid /
exec setpriv --pdeathsig KILL --reuid {USER} --regid {USER} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"""


def mount(place: Path) -> int:
    """An empty FUSE mount, whose program is whoever has the descriptor that this returns. Raises OSError."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id={USER},group_id={USER},allow_other"
        kernel.mount("s3fs", str(place), "fuse", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    except BaseException:
        os.close(device)
        raise
    return device


def prepare(own: Path, resolvers: str) -> None:
    """The files that the program gets; blocks."""
    (own / "root").mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = own / "tmp"
    temporary.mkdir(exist_ok=True, mode=0o700)
    os.chown(temporary, USER, USER)
    (own / "fusermount").write_text(_FUSERMOUNT)
    (own / "fusermount").chmod(0o755)
    (own / "resolv.conf").write_text(resolvers)
    (own / "hosts").write_text("127.0.0.1 localhost\n")


def argv(own: Path, network: Path | None, program: list[str]) -> list[str]:
    """What to run, as the host's root, with `environment`. It dies with the server. `network`: a network namespace; None: the host's."""
    enter = ["nsenter", f"--net={network}", "--"] if network is not None else []
    namespaces = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--"]
    python = os.path.realpath(sys.base_prefix)
    return ["setpriv", "--pdeathsig", "KILL", *enter, *namespaces, "sh", "-c", _ENTER, "sh", str(own / "root"), str(own), python, *program]


def environment(device: int) -> dict[str, str]:
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nonexistent", "LC_ALL": "C", _DESCRIPTOR: str(device)}
