"""Devices by the Container Device Interface: what a container needs to use one, as the vendor's files say it (CDI specification 0.8, "CDI JSON Specification").

Hooks are programs for OCI runtimes. Forked containers have none, so what hooks do is done here, for all drivers alike; one that is not known is an error.
"""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from squall.model.errors import ContainerStartError
from squall.runtime.contract import Bind, DeviceNode

#: Later ones win (CDI specification, "Registry").
FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
#: Directories to read instead, separated by colons.
VARIABLE = "SQUALL_CDI_DIRS"
#: Hooks of NVIDIA's toolkit that change nothing here: device nodes have their modes from the start, and drivers are not mixed.
_WITHOUT_EFFECT = {"chmod", "enable-cuda-compat", "disable-device-node-modification"}


class _Node(msgspec.Struct, rename="camel"):
    path: str
    host_path: str = ""
    file_mode: int | None = None


class _Mount(msgspec.Struct, rename="camel"):
    host_path: str
    container_path: str
    options: list[str] = []


class _Hook(msgspec.Struct, rename="camel"):
    hook_name: str
    path: str
    args: list[str] = []


class _Edits(msgspec.Struct, rename="camel"):
    env: list[str] = []
    device_nodes: list[_Node] = []
    mounts: list[_Mount] = []
    hooks: list[_Hook] = []


class _Device(msgspec.Struct, rename="camel"):
    name: str | int  # YAML reads a bare 0 as a number
    container_edits: _Edits


class _Spec(msgspec.Struct, rename="camel"):
    kind: str
    devices: list[_Device]
    container_edits: _Edits = msgspec.field(default_factory=_Edits)


@dataclass(frozen=True, slots=True)
class Edits:
    """What a container gets for its devices. `links`: symbolic links by their paths inside, to targets as they are written."""

    nodes: tuple[DeviceNode, ...] = ()
    binds: tuple[Bind, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)


def folders_of(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where the files are."""
    named = environment.get(VARIABLE)
    return FOLDERS if named is None else tuple(Path(folder) for folder in named.split(":") if folder)


def resolve(ids: Sequence[str], folders: Iterable[Path] = FOLDERS) -> Edits:
    """What a container needs for GPUs with these ids: UUIDs, or whatever names the files have, which are read anew.

    Raises:
        ContainerStartError: no file names a device, a file is wrong, or a device needs a hook that is not known.
    """
    folders = tuple(folders)
    known: dict[str, tuple[_Spec, _Device]] = {}
    for folder in folders:
        for file in sorted((*folder.glob("*.json"), *folder.glob("*.yaml"), *folder.glob("*.yml"))):
            spec = _read(file)
            if spec.kind.rpartition("/")[2] == "gpu":
                known.update((str(device.name), (spec, device)) for device in spec.devices)
    found: list[_Edits] = []
    for wanted in ids:
        name = wanted if wanted in known else _indexes().get(wanted, wanted)
        if name not in known:
            where = " and ".join(map(str, folders))
            raise ContainerStartError(
                f"no CDI file in {where} says how a container gets GPU {wanted}; write one with: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
            )
        spec, device = known[name]
        if spec.container_edits not in found:
            found.append(spec.container_edits)
        found.append(device.container_edits)
    return _merged(found)


def has(device: str, folders: Iterable[Path] = FOLDERS) -> bool:
    """Whether a file names the device."""
    try:
        resolve([device], folders)
    except ContainerStartError:
        return False
    return True


def _read(file: Path) -> _Spec:
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=_Spec)  # JSON is YAML too
    except (OSError, msgspec.MsgspecError) as error:
        raise ContainerStartError(f"the CDI file {file} can't be read: {error}") from error


def _indexes() -> dict[str, str]:
    """UUIDs of NVIDIA's devices -> their numbers, by which its toolkit names them unless it is told otherwise."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    asked = subprocess.run([tool, "--query-gpu=uuid,index", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=False)
    return dict(line.split(", ", 1) for line in asked.stdout.splitlines() if ", " in line)


def _merged(all_edits: Sequence[_Edits]) -> Edits:
    nodes: dict[str, DeviceNode] = {}
    binds: dict[str, Bind] = {}
    env: dict[str, str] = {}
    links: dict[str, str] = {}
    for edits in all_edits:
        for node in edits.device_nodes:
            nodes[node.path] = _node(node)
        for mount in edits.mounts:
            target = _in_usr(mount.container_path)
            binds[target] = Bind(Path(mount.host_path), target, read_only="rw" not in mount.options)
        for entry in edits.env:
            name, _, value = entry.partition("=")
            env[name] = value
    for edits in all_edits:
        for hook in edits.hooks:
            links.update(_links_of(hook, binds.values()))
    return Edits(tuple(nodes.values()), tuple(binds.values()), env, links)


def _node(node: _Node) -> DeviceNode:
    host = Path(node.host_path or node.path)
    try:
        found = host.stat()
    except OSError as error:
        raise ContainerStartError(f"the device {host}, which a CDI file names, is not there: {error.strerror}") from error
    if not stat.S_ISCHR(found.st_mode):
        raise ContainerStartError(f"{host}, which a CDI file names, is no character device")
    mode = stat.S_IMODE(found.st_mode if node.file_mode is None else node.file_mode)
    return DeviceNode(node.path, host, os.major(found.st_rdev), os.minor(found.st_rdev), mode)


def _links_of(hook: _Hook, binds: Iterable[Bind]) -> dict[str, str]:
    """What a hook would leave in the container, which is links in all cases that are known."""
    words = [word for word in hook.args[1:] if word != "hook"]
    action = words[0] if words else Path(hook.path).name
    if action in _WITHOUT_EFFECT:
        return {}
    if action == "create-symlinks":
        pairs = (value.split("::", 1) for value in _values(words, "--link") if "::" in value)
        return {_in_usr(path): target for target, path in pairs}
    if action == "update-ldcache":
        return _library_links(set(map(_in_usr, _values(words, "--folder"))), binds)
    raise ContainerStartError(f"a CDI file asks for the hook {action!r} ({hook.path}), which is not known here")


def _in_usr(path: str) -> str:
    """/lib is a link to /usr/lib in the images of today, and the others look there as well."""
    path = os.path.normpath(path)
    return f"/usr{path}" if path.startswith(("/lib/", "/lib64/", "/bin/", "/sbin/")) else path


def _values(words: Sequence[str], flag: str) -> list[str]:
    """Of a flag that may be given many times, as two words or with "="."""
    following = [value for word, value in zip(words, words[1:], strict=False) if word == flag]
    return following + [word.removeprefix(f"{flag}=") for word in words if word.startswith(f"{flag}=")]


def _library_links(folders: set[str], binds: Iterable[Bind]) -> dict[str, str]:
    """Names by which libraries are looked up: those that the host has for the same files, where its own ldconfig made them."""
    links: dict[str, str] = {}
    for bind in binds:
        folder, name = os.path.split(bind.target)
        if folder in folders and ".so" in name:
            stem = name.partition(".so")[0]
            for other in bind.source.parent.glob(f"{stem}.so*"):
                if other.is_symlink() and other.resolve() == bind.source.resolve() and other.name != name:
                    links[f"{folder}/{other.name}"] = name
    return links
