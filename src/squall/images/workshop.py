"""Running one build step: a container over the layers so far, with the host's package settings at hand and its output read line by line."""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from squall.images import apt
from squall.images.host import INSIDE, surroundings, uv_binary
from squall.images.layers import Draft
from squall.images.place import like_below
from squall.images.recipe import FILES, PYTHON, UV, Command
from squall.images.settings import ImageSettings
from squall.model.ids import CONTAINER, ContainerId, make_id
from squall.model.resources import Resources
from squall.runtime.cdi import Edits
from squall.runtime.contract import Bind, ContainerSpec, Driver, Exit, Network

#: Longest line that is passed on whole. A program that prints more without a line end gets it cut here.
_LINE_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Chain:
    """The image so far: its layers, lowest first, its environment, and where its interpreter is."""

    layers: tuple[Path, ...]
    env: Mapping[str, str]
    workdir: str  #: empty: as the command has it
    python: str
    loader: str = ""  #: directory of the C library that the interpreter brings along, where it does: for programs of the builder, too
    library: Path | None = None  #: layer with Squall's own library, for commands that need it
    volumes: tuple[Bind, ...] = ()
    scope: str = ""  #: whose caches of RUN --mount it sees; empty: nobody's
    devices: Edits = field(default_factory=Edits)  #: of the GPUs that the command has


class Workshop:
    """Runs commands over a chain of layers, each into the upper directory of a draft.

    What a step runs is whatever the image's author likes, its shell and interpreter included. So no step may write to what another one reads: downloads
    are the step's own and go with it. What lasts is the layer, whose key says all that made it.
    """

    def __init__(self, driver: Driver, settings: ImageSettings, cache: Path, content: Callable[[str], Path], now: Callable[[], float]) -> None:
        self._driver, self._settings, self._cache, self._content, self._now = driver, settings, cache, content, now

    async def run(self, command: Command, chain: Chain, draft: Draft, secrets: Mapping[str, str], line: Callable[[str], None]) -> Exit:
        """Run `command` to its end; what it wrote is in `draft.fs`, without traces of the builder. The container is gone afterwards, also when cancelled.

        Raises:
            TimeoutError: (builtin) it ran longer than it may; the message is the limit in seconds.
            Error: the container could not be started.
        """
        env, binds = await asyncio.to_thread(self._prepare, command, draft, chain.loader)
        if chain.library is not None:
            binds = (*binds, Bind(chain.library / ".squall/lib", "/.squall/lib"))
        network = Network.NAT if command.network and self._settings.step_network else Network.NONE
        if self._settings.uid_base is not None:
            # The upper directory is the container's root directory: it gets what the layer below has.
            await asyncio.to_thread(like_below, draft.fs, chain.layers, self._settings.uid_base)
        words = {PYTHON: chain.python, UV: f"{INSIDE}/uv", FILES: f"{INSIDE}/files"}
        argv = tuple(_fill(word, words) for word in command.argv)
        spec_id = ContainerId(make_id(CONTAINER, int(self._now() * 1000), os.urandom(10)))
        # The image's own variables win over the host's, the step's over both.
        whole = {**env, **chain.env, **command.env, **secrets, **chain.devices.env}
        if command.tool is None:
            whole["PATH"] = f"{whole.get('PATH', os.defpath)}:{INSIDE}/bin"  # last: an image's own uv comes first
        limit_s = command.timeout_s or self._settings.step_timeout_s
        clock = asyncio.timeout(limit_s)
        try:
            async with clock, _lines(line) as stdout:
                spec = ContainerSpec(
                    id=spec_id,
                    layers=chain.layers,
                    argv=argv,
                    env=whole,
                    stdout=stdout.fileno(),
                    stderr=stdout.fileno(),
                    workdir=chain.workdir or command.home,
                    binds=(*binds, *self._mounts(command, draft, chain), *chain.volumes, *chain.devices.binds),
                    resources=Resources(cpu_limit=command.cpu, memory_limit_mib=self.memory_mib(command)),
                    network=network,
                    upper=draft.fs,
                    devices=chain.devices.nodes,
                    links=chain.devices.links,
                )
                container = await self._driver.start(spec)
                stdout.close()  # the container has its own copy; the reader sees the end when that is closed
                try:
                    exit = await container.wait()
                finally:
                    await container.remove()
        except TimeoutError as error:
            if clock.expired():
                raise TimeoutError(f"{limit_s:g}") from error
            raise
        return exit

    def memory_mib(self, command: Command) -> int | None:
        """What the command may use; None: what there is."""
        return command.memory_mib or self._settings.step_memory_mib

    def _prepare(self, command: Command, draft: Draft, loader: str) -> tuple[dict[str, str], tuple[Bind, ...]]:
        around = surroundings(self._settings)
        env, desk = dict(around.env), draft.scratch / "desk"
        desk.mkdir()
        binds = [Bind(desk, INSIDE)]
        apt_lines = [*apt.connection_options(), 'APT::Sandbox::User "root";']
        for file in (*command.files, *command.unkeyed):
            place = desk / "files" / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._content(file.digest), place)
            place.chmod(0o755 if file.executable else 0o644)
        for name, text in command.texts:
            (desk / "files").mkdir(exist_ok=True)
            (desk / "files" / name).write_text(text)
        if command.tool == "mamba":
            binds.append(self._room(draft, "mamba"))
            env["CONDA_PKGS_DIRS"] = f"{INSIDE}/mamba"
        if command.tool is None:
            # For commands that call uv, as they can in other builders' slim images. What it takes for granted of this machine is not theirs.
            binds += [Bind(uv_binary(), f"{INSIDE}/bin/uv"), self._room(draft, "uv-cache")]
            env |= {"UV_CACHE_DIR": f"{INSIDE}/uv-cache", "UV_LINK_MODE": "copy", "UV_NO_PROGRESS": "1"}
            env.pop("UV_NO_CONFIG", None)
        if command.tool == "uv":
            binds.append(self._room(draft, "tmp"))
            env["TMPDIR"] = f"{INSIDE}/tmp"  # uv leaves a lock file there
            name = "uv"
            if loader:
                (desk / "uv").write_text(f'#!/bin/sh\nexec {loader}/loader --library-path {loader} {INSIDE}/uv-itself "$@"\n')
                (desk / "uv").chmod(0o755)
                name = "uv-itself"
            binds += [Bind(uv_binary(), f"{INSIDE}/{name}"), self._room(draft, "uv-cache")]
            # Bytecode is made now, because every container would have to make it again: 2 s for pandas. Hard links can't cross the mount.
            env |= {
                "UV_CACHE_DIR": f"{INSIDE}/uv-cache",
                "UV_LINK_MODE": "copy",
                "UV_COMPILE_BYTECODE": "1",
                "UV_NO_PROGRESS": "1",
                "UV_PYTHON_DOWNLOADS": "never",
            }
        if command.tool == "apt":
            for name, setting in (("lists", "Dir::State::lists"), ("archives", "Dir::Cache::archives")):
                binds.append(self._room(draft, name))
                self._owned(draft.scratch / name / "partial")
                apt_lines.append(f'{setting} "{INSIDE}/{name}";')
        if "SSL_CERT_FILE" in env:
            apt_lines.append(f'Acquire::https::CaInfo "{env["SSL_CERT_FILE"]}";')
        (desk / "apt.conf").write_text("\n".join(apt_lines) + "\n")
        env["APT_CONFIG"] = f"{INSIDE}/apt.conf"
        # Mount points within the desk have to be there.
        for bind in (*binds[1:], *around.binds):
            if bind.target.startswith(f"{INSIDE}/"):
                point = desk / bind.target[len(INSIDE) + 1 :]
                point.parent.mkdir(parents=True, exist_ok=True)
                point.mkdir(exist_ok=True) if bind.source.is_dir() else point.touch()
        return env, (*binds, *around.binds)

    def _mounts(self, command: Command, draft: Draft, chain: Chain) -> tuple[Bind, ...]:
        """Of RUN --mount. A cache is shared by the builds of one app, whose name is in the step's key."""
        workdir = chain.workdir or command.home
        found: list[Bind] = []
        for number, (kind, target, name) in enumerate(command.binds):
            match kind:
                case "bind":
                    source = draft.scratch / "desk/files" / name
                case "cache" if chain.scope:
                    source = self._owned(self._cache / "run" / hashlib.sha256(f"{chain.scope}\0{name}".encode()).hexdigest()[:32])
                case _:
                    source = self._owned(draft.scratch / f"tmpfs-{number}")
            found.append(Bind(source, os.path.normpath(os.path.join(workdir, target)), read_only=kind == "bind"))
        return tuple(found)

    def _room(self, draft: Draft, name: str) -> Bind:
        """A directory of the step's own, which goes with it and is in no layer."""
        return Bind(self._owned(draft.scratch / name), f"{INSIDE}/{name}", read_only=False)

    def _owned(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        if (owner := self._settings.uid_base) is not None and directory.stat().st_uid != owner:
            os.chown(directory, owner, owner)
        return directory


def _fill(word: str, values: Mapping[str, str]) -> str:
    # Only whole words, and paths below one: a package or a command of the user may hold braces.
    for name, value in values.items():
        if word == name or word.startswith(f"{name}/"):
            return value + word[len(name) :]
    return word


@contextlib.asynccontextmanager
async def _lines(line: Callable[[str], None]) -> AsyncIterator["_Writer"]:
    """A pipe whose lines go to `line`. On a regular exit everything that was written has been passed on."""
    reader_fd, writer_fd = os.pipe()
    writer = _Writer(writer_fd)
    reader = asyncio.StreamReader()
    with contextlib.closing(writer):
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reader_fd, "rb", buffering=0))
        pump = asyncio.create_task(_pump(reader, line), name="read a build's output")
        try:
            yield writer
            writer.close()
            await pump
        finally:
            transport.close()
            pump.cancel()
            await asyncio.wait([pump])


async def _pump(reader: asyncio.StreamReader, line: Callable[[str], None]) -> None:
    rest = b""
    while chunk := await reader.read(_LINE_MAX):
        *whole, rest = re.split(rb"\r*\n|\r", rest + chunk)
        for part in whole:
            line(part.decode(errors="replace"))
        if len(rest) > _LINE_MAX:
            line(rest.decode(errors="replace"))
            rest = b""
    if rest:
        line(rest.decode(errors="replace"))


class _Writer:
    """The writing end of a pipe, closed once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def fileno(self) -> int:
        assert self._descriptor is not None
        return self._descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
