"""Unpacks one layer of an OCI image into a directory: a program of its own, which the builder starts, with the layer on its standard input.

    python unpack.py DIRECTORY BASE

It changes its root to the directory first, so no name or link in the archive leads out of it. Owners are shifted by BASE. Deletions become what overlayfs
takes for them (OCI image spec, layer.md, "Whiteouts"; kernel, overlayfs.rst). Device nodes are left out: containers bring their own. On standard output: one
JSON list with the directories that the archive needed but did not have. Uses the standard library only.
"""

import gzip
import json
import os
import stat
import struct
import subprocess
import sys
import tarfile
from typing import IO, Any, cast

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
_CAPABILITY = "security.capability"
_BUFFER = 1 << 20
#: A container has so many users and groups; what has none of them belongs to nobody.
_IDS, _NOBODY = 65_536, 65_534


def main() -> int:
    root, base = sys.argv[1], int(sys.argv[2])
    stream = _plain(sys.stdin.buffer)
    # Everything that is needed later has to be loaded before the root changes.
    "".encode("idna"), b"".decode("utf-8", "surrogateescape")
    os.umask(0)
    os.chroot(root)
    os.chdir("/")
    os.chown("/", base, base)
    implied = _unpack(stream, base)
    sys.stdout.write(json.dumps(implied) + "\n")
    return 0


def _plain(raw: Any) -> IO[bytes]:
    """The archive without its compression, whatever that is."""
    head = raw.peek(6)[:6]
    if head[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    programs = {b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
    for magic, program in programs.items():
        if head.startswith(magic):
            process = subprocess.Popen([program, "-dc"], stdin=raw, stdout=subprocess.PIPE)
            assert process.stdout is not None
            return process.stdout
    return cast(IO[bytes], raw)


def _unpack(stream: IO[bytes], base: int) -> list[str]:
    implied = [""]
    made = {""}
    times: list[tuple[str, float]] = []
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER) as archive:
        for member in archive:
            name = os.path.normpath(member.name).lstrip("/")
            if name in (".", "") or name.startswith("../"):
                if name in (".", "") and member.isdir():
                    _own(".", member, base)
                    implied.remove("") if "" in implied else None
                continue
            parent, last = os.path.split(name)
            _parents(parent, made, implied, base)
            if last == _OPAQUE:
                os.setxattr(parent or ".", "trusted.overlay.opaque", b"y")
            elif last.startswith(_WHITEOUT):
                gone = os.path.join(parent, last[len(_WHITEOUT) :])
                _clear(gone)
                os.mknod(gone, stat.S_IFCHR, os.makedev(0, 0))
            elif member.isdir():
                if not _is_directory(name):
                    _clear(name)
                    os.mkdir(name)
                made.add(name)
                if name in implied:
                    implied.remove(name)
                _own(name, member, base)
                times.append((name, member.mtime))
            elif member.isreg():
                _clear(name)
                source = archive.extractfile(member)
                assert source is not None
                with open(name, "wb") as target:
                    while chunk := source.read(_BUFFER):
                        target.write(chunk)
                _own(name, member, base)
                os.utime(name, (member.mtime, member.mtime))
            elif member.issym():
                _clear(name)
                os.symlink(member.linkname, name)
                os.chown(name, _host_id(member.uid, base), _host_id(member.gid, base), follow_symlinks=False)
            elif member.islnk():
                _clear(name)
                os.link(os.path.normpath(member.linkname).lstrip("/"), name, follow_symlinks=False)
            elif member.isfifo():
                _clear(name)
                os.mkfifo(name)
                _own(name, member, base)
    for name, seconds in reversed(times):
        os.utime(name, (seconds, seconds))
    # What a later entry put a link in the place of is no directory to be looked after: outside of this root the link leads elsewhere.
    return [name for name in implied if os.path.realpath(f"/{name}") == f"/{name}"]


def _parents(name: str, made: set[str], implied: list[str], base: int) -> None:
    if name in made:
        return
    _parents(os.path.dirname(name), made, implied, base)
    if not _is_directory(name) and not os.path.isdir(name):
        _clear(name)
        os.mkdir(name, 0o755)
        os.chown(name, base, base)
        implied.append(name)
    made.add(name)


def _own(name: str, member: tarfile.TarInfo, base: int) -> None:
    os.chown(name, _host_id(member.uid, base), _host_id(member.gid, base))
    os.chmod(name, member.mode & 0o7777)  # after chown(2), which clears the setuid bit
    if (value := member.pax_headers.get(f"SCHILY.xattr.{_CAPABILITY}")) is not None:
        os.setxattr(name, _CAPABILITY, _namespaced(value.encode("utf-8", "surrogateescape"), base))


def _host_id(number: int, base: int) -> int:
    """Of a user or group of the archive. One that no container has is nobody: shifted, it might be a user of this machine (-BASE would be root)."""
    return base + (number if 0 <= number < _IDS else _NOBODY)


def _namespaced(value: bytes, base: int) -> bytes:
    """File capabilities as the user namespace of containers takes them (linux/capability.h, VFS_CAP_REVISION_3)."""
    if not base or len(value) != 20:
        return value
    (magic,) = struct.unpack("<I", value[:4])
    return struct.pack("<I", 0x03000000 | (magic & 0xFFFFFF)) + value[4:] + struct.pack("<I", base)


def _is_directory(name: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(name).st_mode)
    except FileNotFoundError:
        return False


def _clear(name: str) -> None:
    """Remove what an earlier entry left there."""
    try:
        os.unlink(name)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        _clear_directory(name)


def _clear_directory(name: str) -> None:
    for entry in os.scandir(name):
        _clear_directory(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    os.rmdir(name)


if __name__ == "__main__":
    sys.exit(main())
