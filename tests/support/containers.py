"""For tests with real containers: a root file system, a driver with its helpers, and a look at everything a container could leave behind."""

import asyncio
import fcntl
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from squall.model.ids import ContainerId
from squall.runtime import cgroups
from squall.runtime.contract import Container, ContainerSpec, Driver, Exit
from squall.runtime.ids import DEFAULT_IDS
from squall.runtime.network import tag_of
from support.waiting import BOUND_S

_SUITE = "bookworm"


def rootfs() -> Path:
    """A minimal Debian with Python, owned by the mapped ids; made once and kept in the cache of tests."""
    cache = Path(os.environ.get("SQUALL_TEST_CACHE") or Path.home() / ".cache/squall-tests")
    base = cache / f"{_SUITE}-python-{DEFAULT_IDS.first}"
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{base.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                fresh = Path(folder) / "base"
                command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,ca-certificates", _SUITE, str(fresh)]
                subprocess.run(command, check=True)
                shift_owner(fresh)
                fresh.rename(base)
    return base


def shift_owner(tree: Path) -> None:
    """Give a tree to the mapped ids. Modes are set again, as chown takes set-id bits away."""
    paths = [str(tree)]
    for folder, folders, files in os.walk(tree):
        paths += [os.path.join(folder, name) for name in (*folders, *files)]
    for path in paths:
        found = os.lstat(path)
        os.lchown(path, found.st_uid + DEFAULT_IDS.first, found.st_gid + DEFAULT_IDS.first)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(path, stat.S_IMODE(found.st_mode))


@dataclass
class Output:
    """How a container ended and what it wrote."""

    exit: Exit
    stdout: str
    stderr: str


@dataclass
class Running:
    """A container and the read ends of its pipes."""

    container: Container
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader
    transports: list[asyncio.ReadTransport]

    async def line(self) -> str:
        return (await asyncio.wait_for(self.stdout.readline(), BOUND_S)).decode().strip()

    async def end(self) -> Output:
        """Wait for its end, read what it wrote, and remove it."""
        try:
            end = await asyncio.wait_for(self.container.wait(), BOUND_S)
        finally:
            await self.container.remove()
        try:
            out, err = await asyncio.wait_for(asyncio.gather(self.stdout.read(), self.stderr.read()), BOUND_S)
        finally:
            self.close()
        return Output(end, out.decode(), err.decode())

    def close(self) -> None:
        for transport in self.transports:
            transport.close()


@dataclass
class World:
    """One driver, opened, with what tests need to start containers by it."""

    driver: Driver
    instance: str
    run_folder: Path
    data_folder: Path
    layers: tuple[Path, ...]
    python: str
    started: int = 0
    running: list[Running] = field(default_factory=list)

    def new_id(self) -> ContainerId:
        """Of its own on this machine: a sandbox of gVisor listens at an address that is made of the id, and that all share."""
        self.started += 1
        return ContainerId(f"ct-{self.instance}-{self.started}")

    async def start(self, *argv: str, env: Mapping[str, str] | None = None, **fields: Any) -> Running:
        pipes = [os.pipe(), os.pipe()]
        fields.setdefault("id", self.new_id())
        fields.setdefault("layers", self.layers)
        try:
            spec = ContainerSpec(argv=argv, env=env or {"PATH": os.environ["PATH"]}, stdout=pipes[0][1], stderr=pipes[1][1], **fields)
            container = await self.driver.start(spec)
        except BaseException:
            for reader, _ in pipes:
                os.close(reader)
            raise
        finally:
            for _, writer in pipes:
                os.close(writer)
        readers, transports = [], []
        for reader, _ in pipes:
            stream = asyncio.StreamReader()
            transport, _protocol = await asyncio.get_running_loop().connect_read_pipe(
                lambda stream=stream: asyncio.StreamReaderProtocol(stream), os.fdopen(reader, "rb")
            )
            readers.append(stream)
            transports.append(transport)
        running = Running(container, readers[0], readers[1], transports)
        self.running.append(running)
        return running

    async def run(self, *argv: str, **fields: Any) -> Output:
        return await (await self.start(*argv, **fields)).end()

    async def run_python(self, code: str, *args: str, **fields: Any) -> Output:
        return await self.run(self.python, "-c", code, *args, **fields)

    async def start_python(self, code: str, *args: str, **fields: Any) -> Running:
        return await self.start(self.python, "-u", "-c", code, *args, **fields)

    async def close(self) -> None:
        for running in self.running:
            await running.container.remove()
            running.close()
        await self.driver.close()


@asynccontextmanager
async def opened(make: Callable[[Path, Path, str], Driver]) -> AsyncIterator[World]:
    """A driver that `make` makes of a run and a data directory and an instance's name, all its own. Afterwards nothing of it may be left."""
    folder, instance = free_folder(), f"t{secrets.token_hex(3)}"
    run, data = folder / "run", folder / "data"
    before, files = children(), set(open_files().values())
    driver = make(run, data, instance)
    await driver.open()
    world = World(driver, instance, run, data, (rootfs(),), "/usr/bin/python3")
    yield world
    await world.close()
    try:
        assert traces(instance, run, data) == []
        assert children() - before == set()
        left = set(open_files().values()) - files
        assert {name for name in left if "pidfd" in name or "socket" in name or str(folder) in name or "net:[" in name} == set()
    finally:
        drop(folder)


def traces(instance: str, run_folder: Path, data_folder: Path) -> list[str]:
    """Everything on this machine that carries the instance's name or lies in its directories, but for the lock file."""
    found = [f"file {path}" for folder in (run_folder, data_folder) if folder.exists() for path in sorted(folder.rglob("*")) if path.name != "lock"]
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"{run_folder}/" in line or f"{data_folder}/" in line]
    groups = cgroups.detect()
    if groups is not None:
        found += [f"cgroup {tree / f'squall-{instance}'}" for tree in groups.trees if (tree / f"squall-{instance}").exists()]
    found += [f"interface {name}" for name in os.listdir("/sys/class/net") if name.startswith((f"sq-{tag_of(instance)}", f"sv{tag_of(instance)}"))]
    if shutil.which("nft") and os.geteuid() == 0:
        ruleset = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        found += [f"firewall {line.strip()}" for line in ruleset.splitlines() if f"squall_{tag_of(instance)}" in line]
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                text = Path("/proc", name, "cmdline").read_bytes() + b"\n" + Path("/proc", name, "environ").read_bytes()
            except OSError:
                continue
            if f"{run_folder}/".encode() in text or f"SQUALL_PROCESS_OF={instance}/".encode() in text:
                found.append(f"process {name} {text[:200]!r}")
    return found


def children() -> set[str]:
    """Pids of this process's children, zombies too."""
    found: set[str] = set()
    for task in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError):  # a thread that has just ended
            found.update(Path("/proc/self/task", task, "children").read_text().split())
    return found


def open_files() -> dict[str, str]:
    """Descriptors of this process and what they are."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
    return found


def free_folder(parent: str | None = None) -> Path:
    """A fresh directory that mapped users can traverse."""
    folder = Path(tempfile.mkdtemp(prefix="squall-test-", dir=parent))
    folder.chmod(0o711)
    return folder


def drop(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
