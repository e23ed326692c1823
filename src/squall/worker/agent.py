"""The node agent: starts containers for orders, and at its own start takes over, or removes, what an earlier agent left."""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import msgspec

import squall
from squall.images.builder import BuiltImage
from squall.model.errors import ContainerStartError, Error, UnsupportedError
from squall.model.ids import ContainerId
from squall.runner.channel import WAKE
from squall.runner.context import CONTAINER_VARIABLE, SOCKET_VARIABLE
from squall.runtime import cdi
from squall.runtime.contract import Bind, Container, ContainerSpec, Driver, Network
from squall.runtime.fork import ForkDriver
from squall.runtime.oci import OciDriver
from squall.wire.messages import Boot, Rejoin
from squall.wire.stream import Turn
from squall.worker.containers import container_records
from squall.worker.containers.managed_container import ContainerPeer, Guest, Hosted
from squall.worker.disk_guard import DiskGuard
from squall.worker.orders import Listener, Order, Supplies
from squall.worker.templates import Templates

log = logging.getLogger(__name__)

#: Where a container finds its agent. The directory holds nothing else.
INSIDE = "/.squall/run"
LIBRARY = "/.squall/lib"
PARCELS = "/.squall/parcels"

#: What the interpreter is told to do: take the runner from the read-only library, then leave the import path as a program would have it.
BOOTSTRAP = (
    "import sys; sys.path.insert(0, {library!r}); from squall.runner.main import main; sys.path.remove({library!r}); sys.path.append({library!r}); main()"
)


class Agent:
    """Containers of one node.

    Args:
        run: directory on a tmpfs that mapped users can traverse; sockets and pipes of containers live below it.
        owner: host uid of root in containers; None where containers have no ids of their own.
        base_env: environment that every container gets (certificates, proxies).
        binds: files of this machine that every container gets (the certificate bundle).
        cdi_folders: where vendors' files say what a container needs for a device.
        parcels: directory of large arguments; containers see it read-only.
    """

    def __init__(
        self,
        *,
        driver: Driver,
        run: Path,
        owner: int | None,
        new_guest: Callable[[ContainerPeer, ContainerId], Guest],
        base_env: Mapping[str, str],
        binds: tuple[Bind, ...] = (),
        parcels: Path | None = None,
        cdi_folders: tuple[Path, ...] = cdi.FOLDERS,
    ) -> None:
        self.driver, self.run, self.owner, self.new_guest = driver, run, owner, new_guest
        isolated = driver.capabilities.images
        self.base_env, self.cdi_folders = base_env, cdi_folders
        self.binds = (*binds, Bind(parcels, PARCELS)) if isolated and parcels is not None else binds
        self._parcels = "" if parcels is None else PARCELS if isolated else str(parcels)
        self.hosted: dict[ContainerId, Hosted] = {}
        #: Containers of an earlier agent that still run; `take_back` is to be called for each.
        self.kept: list[tuple[container_records.Record, Container]] = []
        self._turn = Turn(asyncio.get_running_loop())
        self._tasks: set[asyncio.Task[None]] = set()
        self._guarding: asyncio.Task[None] | None = None
        #: None where the driver has none.
        self.templates = Templates(driver) if isinstance(driver, ForkDriver) else None
        # Launching is work for processors: more at a time than there are only makes each slower, and none is ready sooner.
        self._launching = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    @property
    def turn(self) -> Turn:
        return self._turn

    async def open(self, keep: Callable[[container_records.Record], bool] = lambda record: False) -> None:
        """Find the containers that an agent which was killed left behind: those that run and that `keep` wants are `kept`, the others are removed."""
        folder = self.run / "io"
        for record in container_records.found(folder):
            if record.squall_version == squall.__version__ and keep(record):
                container = await self.driver.adopt(ContainerId(record.container))
                if container is not None:
                    self.kept.append((record, container))
        kept = {record.container for record, _ in self.kept}
        removed = await self.driver.sweep(lambda container: container in kept)
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.stem not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.run.chmod(0o711)
        folder.chmod(0o711)
        if isinstance(self.driver, OciDriver):
            self._guarding = asyncio.create_task(DiskGuard(self.driver.written, self._end_writer).run(), name="disk guard")
        if removed or kept:
            log.info("of the containers of an earlier server %d were removed, %d go on", len(removed), len(kept))

    def _end_writer(self, name: str, written: int) -> bool:
        """The disk is nearly full, and this container has written most."""
        said = f"the server's disk is nearly full, and this container, which has written {written >> 20} MiB, was ended (ephemeral_disk= sets a limit)"
        if (hosted := self.hosted.get(ContainerId(name))) is not None:
            hosted.listener.printed(0, 2, f"squall: {said}\n".encode())
            hosted.kill()
        elif not isinstance(self.driver, ForkDriver) or not self.driver.kill_template(ContainerId(name)):
            return False
        log.warning("container(%s): %s", name, said)
        return True

    def take_back(self, record: container_records.Record, container: Container, listener: Listener, rejoined: Callable[[Rejoin], None]) -> Hosted:
        """Listen for a container of an earlier agent. Its runner comes within moments, busy or not, and says what it has."""
        hosted = Hosted(container.id, None, listener, self.run / "io" / container.id, self._turn, self.new_guest)
        hosted.record, hosted.rejoined = record, rejoined
        self.hosted[container.id] = hosted
        hosted.listen(self.owner)
        hosted.run(container)
        container.kill(WAKE)
        self._own(self._watch(hosted), f"container {container.id}")
        return hosted

    async def _watch(self, hosted: Hosted) -> None:
        await hosted.watch()
        del self.hosted[hosted.id]

    def start(self, order: Order, listener: Listener) -> Hosted:
        """Start a container; what becomes of it is told to `listener`."""
        boot = Boot(
            order.container, order.app, order.app_name, order.function, order.packed_spec, dict(order.functions), dict(order.env), order.parameters,
            tuple(Path(file.path).name for file in order.spec.source), order.image.id, self._parcels,
        )  # fmt: skip
        hosted = Hosted(order.container, boot, listener, self.run / "io" / order.container, self._turn, self.new_guest)
        self.hosted[order.container] = hosted
        if not order.spec.buckets and not any(mount.strict for mount in order.spec.volumes):  # what holds those lives with the server
            hosted.record = container_records.Record(
                order.container, order.app, order.spec.tag, order.function, order.packed_spec, order.image.id, tuple(map(str, order.layers)),
                order.parameters, order.node, order.gpu_type, order.devices, squall.__version__,
            )  # fmt: skip
        self._own(self._run(hosted, boot, order), f"container {order.container}")
        return hosted

    async def _run(self, hosted: Hosted, boot: Boot, order: Order) -> None:
        async with AsyncExitStack() as stack:
            try:
                supplies = Supplies() if order.supplies is None else await stack.enter_async_context(order.supplies())
                boot.env = {**supplies.env, **order.env}
                starting = hosted.starting = asyncio.create_task(self._start(hosted, boot, order, supplies.binds), name=f"start {order.container}")
                if hosted.unwanted:
                    starting.cancel()
                try:
                    hosted.run(await starting)
                except asyncio.CancelledError as cancelled:
                    if not hosted.unwanted:
                        raise
                    raise ContainerStartError("the container was ended before it had started") from cancelled
            except Exception as error:
                await hosted.discard()
                del self.hosted[hosted.id]
                cause = error if isinstance(error, Error) else ContainerStartError(f"the container could not be started: {type(error).__name__}: {error}")
                if not isinstance(error, Error):
                    log.exception("container %s could not be started", hosted.id)
                hosted.listener.could_not_start(cause)
                return
            await self._watch(hosted)

    async def _start(self, hosted: Hosted, boot: Boot, order: Order, volumes: tuple[Bind, ...]) -> Container:
        isolated = self.driver.capabilities.images
        if volumes and not isolated:
            raise UnsupportedError("volumes need containers of their own: run the server as root on Linux with runc (squall doctor says what is missing)")
        gvisor = order.spec.runtime == "gvisor"
        if gvisor and not isolated:
            raise UnsupportedError('runtime="gvisor" needs containers of their own: run the server as root on Linux (squall doctor says what is missing)')
        inside = INSIDE if isolated else str(hosted.directory)
        env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **self.base_env,
            **order.image.env,
            CONTAINER_VARIABLE: order.container,
            SOCKET_VARIABLE: f"{inside}/agent.sock",
            "SQUALL_IS_REMOTE": "1",
            # What programs written for Modal look at (the reference's section on configuration).
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": order.container,
            "MODAL_IMAGE_ID": order.image.id,
        }
        workdir, library = order.image.workdir, LIBRARY
        entrypoint = (order.image.entrypoint or ()) if isolated else ()
        hosted.entrypoint = " ".join(entrypoint)
        hosted.listen(self.owner)
        if isolated:
            # The sources are there, whatever the working directory of the image; what a function starts finds them too.
            env["PYTHONPATH"] = f"{env['PYTHONPATH']}:/root" if env.get("PYTHONPATH") else "/root"
        else:
            workdir, library = await asyncio.to_thread(_workspace, hosted.directory, (*order.image.layers, *order.layers))
            env["HOME"] = workdir
            env["PATH"] = f"{Path(order.image.python).parent}:{os.environ.get('PATH', env['PATH'])}"
        edits = await asyncio.to_thread(self.edits_of, order.devices) if order.devices else cdi.Edits()
        env |= edits.env
        hosted.env, hosted.workdir = env, workdir
        stdout, stderr = hosted.writers()
        try:
            spec = ContainerSpec(
                id=order.container,
                layers=(*order.image.layers, *order.layers),
                argv=(*entrypoint, order.image.python, "-c", BOOTSTRAP.format(library=library)),
                env=env,
                stdout=stdout,
                stderr=stderr,
                workdir=workdir,
                hostname=order.container[:15],
                binds=(Bind(hosted.directory, INSIDE), *self.binds, *volumes, *edits.binds) if isolated else (),
                resources=order.spec.resources,
                devices=edits.nodes,
                links=edits.links,
                network=Network.NONE if order.spec.block_network else Network.NAT,
                outbound=None if order.spec.outbound_cidrs is None else tuple(map(IPv4Network, order.spec.outbound_cidrs)),
                rights=False,
                gvisor=gvisor,
            )
            hosted.phases["image_s"] = hosted.since_asked()
            if self.templates is None:
                return await self._start_plainly(spec)
            if gvisor or entrypoint:
                hosted.not_forked = 'the function says runtime="gvisor"' if gvisor else f"the image's entrypoint, {entrypoint[0]}, starts each container"
                return await self._start_plainly(spec)
            copied = await self.templates.start(order, spec, boot, library=library, chosen=hosted.copied)
            if isinstance(copied, str):
                hosted.not_forked = copied
                return await self._start_plainly(spec)
            for stream, text in copied.output:
                hosted.listener.printed(0, stream, text.encode())
            return copied.container
        finally:
            os.close(stdout)
            os.close(stderr)

    def edits_of(self, devices: tuple[str, ...]) -> cdi.Edits:
        """What GPUs bring to a container. Simulated ones are only reserved, unless a CDI file has something for them. Reads files.

        Raises:
            UnsupportedError: containers here can't have devices.
            ContainerStartError: the vendor's files don't say how.
        """
        given = [device for device in devices if not device.startswith("simulated-") or cdi.has(device, self.cdi_folders)]
        if not given:
            return cdi.Edits()
        if not self.driver.capabilities.images:
            raise UnsupportedError("gpu= needs containers of their own: run the server as root on Linux with runc (squall doctor says what is missing)")
        edits = cdi.resolve(given, self.cdi_folders)
        return replace(edits, env={**edits.env, "CUDA_VISIBLE_DEVICES": ",".join(given)})

    async def _start_plainly(self, spec: ContainerSpec) -> Container:
        async with self._launching:
            return await self.driver.start(spec)

    def prepare(self, image: BuiltImage, layers: tuple[Path, ...]) -> None:
        """Containers of this image, under these layers of a function, may be wanted soon."""
        if self.templates is not None and layers and not image.entrypoint:
            self.templates.prepare(image, layers[0], LIBRARY)

    def explain(self, function: str) -> list[dict[str, Any]]:
        """The templates of a function; see `Templates.explain`. None without templates."""
        return self.templates.explain(function) if self.templates is not None else []

    async def forget_app(self, app: str) -> None:
        """An app ended: nothing of it will be started any more."""
        if self.templates is not None:
            await self.templates.forget_app(app)

    def _own(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all containers and wait until nothing of them is left."""
        for hosted in list(self.hosted.values()):
            hosted.kill()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._guarding is not None:
            self._guarding.cancel()
            await asyncio.wait([self._guarding])
        if self.templates is not None:
            await self.templates.close()


def pack_spec(spec: msgspec.Struct) -> bytes:
    """A function's spec as it goes into Boot."""
    return msgspec.msgpack.encode(spec)


def _workspace(directory: Path, layers: tuple[Path, ...]) -> tuple[str, str]:
    """For the process driver, which has no root file system of its own: copies of /root and of the library of the layers."""
    root = directory / "root"
    root.mkdir()
    library = ""
    for layer in layers:
        if (layer / "root").is_dir():
            shutil.copytree(layer / "root", root, dirs_exist_ok=True)
        if (layer / ".squall" / "lib").is_dir():
            library = str(layer / ".squall" / "lib")
    return str(root), library
