"""The node agent: starts containers for orders, and at its own start takes over, or removes, what an earlier agent left."""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import msgspec

import squall
from squall.images.built import BuiltImage
from squall.model.errors import ContainerStartError, Error, UnsupportedError
from squall.model.ids import ContainerId, ImageId
from squall.model.specs import FunctionSpec
from squall.runner.channel import WAKE
from squall.runner.context import CONTAINER_VARIABLE, SOCKET_VARIABLE
from squall.runtime import cdi
from squall.runtime.contract import Bind, Container, ContainerSpec, Driver, Network
from squall.wire.agent import (
    ContainerRecord,
    ContainerState,
    CouldNotStart,
    ImageName,
    KeepContainer,
    KillContainer,
    NodeHello,
    Order,
    PrepareImage,
    Report,
    StartContainer,
    Tell,
    ToContainer,
    Usage,
)
from squall.wire.messages import Boot, Fault
from squall.wire.stream import Turn
from squall.worker.containers import container_records
from squall.worker.containers.managed_container import ContainerPeer, Guest, Hosted
from squall.worker.containers.web_connections import WebLinks
from squall.worker.disk_guard import DiskGuard
from squall.worker.orders import ContainerPlan, Supplies
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
        layer_path: where the layer of a name is.
    """

    def __init__(
        self,
        *,
        driver: Driver,
        run: Path,
        owner: int | None,
        new_guest: Callable[[ContainerPeer, ContainerId], Guest],
        layer_path: Callable[[str], Path],
        base_env: Mapping[str, str],
        binds: tuple[Bind, ...] = (),
        parcels: Path | None = None,
        cdi_folders: tuple[Path, ...] = cdi.FOLDERS,
    ) -> None:
        self.driver, self.run, self.owner, self.new_guest, self._layer_path = driver, run, owner, new_guest, layer_path
        #: Where reports go; set by whoever makes the link to the server.
        self.report: Callable[[Report], None] = lambda report: None
        #: What a container of an app and function gets when it starts, until it has ended: entered and left by the agent.
        self.supply: Callable[[str, FunctionSpec, str], AbstractAsyncContextManager[Supplies]] | None = None
        isolated = driver.capabilities.images
        self.base_env, self.cdi_folders = base_env, cdi_folders
        self.binds = (*binds, Bind(parcels, PARCELS)) if isolated and parcels is not None else binds
        self._parcels = "" if parcels is None else PARCELS if isolated else str(parcels)
        self.hosted: dict[ContainerId, Hosted] = {}
        #: Containers of an earlier agent that still run: each waits for the order to keep it or to kill it.
        self._kept: dict[str, tuple[ContainerRecord, Container]] = {}
        self._turn = Turn(asyncio.get_running_loop())
        self._tasks: set[asyncio.Task[None]] = set()
        self._guarding: asyncio.Task[None] | None = None
        #: None where the driver has none.
        self.templates = Templates(driver.templating) if driver.templating is not None else None
        # Launching is work for processors: more at a time than there are only makes each slower, and none is ready sooner.
        self._launching = asyncio.Semaphore(2 * (os.cpu_count() or 1))

    @property
    def turn(self) -> Turn:
        return self._turn

    async def open(self, keep: Callable[[ContainerRecord], bool] = lambda record: False) -> None:
        """Find the containers that an agent which was killed left behind: those that run and that `keep` wants are `kept`, the others are removed."""
        folder = self.run / "io"
        for record in container_records.found(folder):
            if record.squall_version == squall.__version__ and keep(record):
                container = await self.driver.adopt(ContainerId(record.container))
                if container is not None:
                    self._kept[record.container] = (record, container)
        kept = set(self._kept)
        removed = await self.driver.sweep(lambda container: container in kept)
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.stem not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.run.chmod(0o711)
        folder.chmod(0o711)
        if self.driver.written is not None:
            self._guarding = asyncio.create_task(DiskGuard(self.driver.written, self._end_writer).run(), name="disk guard")
        if removed or kept:
            log.info("of the containers of an earlier server %d were removed, %d go on", len(removed), len(kept))

    def _end_writer(self, name: str, written: int) -> bool:
        """The disk is nearly full, and this container has written most."""
        said = f"the server's disk is nearly full, and this container, which has written {written >> 20} MiB, was ended (ephemeral_disk= sets a limit)"
        if (hosted := self.hosted.get(ContainerId(name))) is not None:
            hosted.printed(2, f"squall: {said}\n".encode())
            hosted.kill()
        elif self.driver.templating is None or not self.driver.templating.kill_template(ContainerId(name)):
            return False
        log.warning("container(%s): %s", name, said)
        return True

    # orders

    def receive(self, order: Order) -> None:
        """Carry out an order of the server's. One about a container that is not there changes nothing."""
        _ORDERS[type(order)](self, order)

    def channel(self, container: str) -> Callable[[ToContainer], None]:
        """What passes a message on to this container's runner; `Tell` without its envelope, for a server in this process."""
        hosted = self.hosted.get(ContainerId(container))
        return _dropped if hosted is None else hosted.send

    def tell(self, order: Tell) -> None:
        """Pass a message on to a runner."""
        self.channel(order.container)(order.message)

    def hello(self) -> NodeHello:
        """What a server that comes has to know."""
        return NodeHello(containers=tuple(ContainerState(name, record) for name, (record, _) in self._kept.items()))

    def keep(self, order: KeepContainer) -> None:
        """Listen for a container of an earlier agent. Its runner comes within moments, busy or not, and says what it has."""
        if (kept := self._kept.pop(order.container, None)) is None:
            return
        record, container = kept
        hosted = Hosted(container.id, None, self.report, self.run / "io" / container.id, self._turn, self.new_guest)
        hosted.record = record
        self.hosted[container.id] = hosted
        hosted.listen(self.owner)
        hosted.run(container)
        container.kill(WAKE)
        self._own(self._watch(hosted), f"container {container.id}")

    async def _watch(self, hosted: Hosted) -> None:
        await hosted.watch()
        del self.hosted[hosted.id]

    def kill(self, order: KillContainer) -> None:
        """End a container."""
        if (hosted := self.hosted.get(ContainerId(order.container))) is not None:
            hosted.kill()
        elif order.container in self._kept:
            self.keep(KeepContainer(order.container))
            self.kill(order)

    def start(self, order: StartContainer) -> None:
        """Start a container; reports tell what becomes of it."""
        container = ContainerId(order.container)
        if container in self.hosted:
            return
        spec = msgspec.msgpack.decode(order.packed_spec, type=FunctionSpec)
        plan = ContainerPlan(order, spec, self._image(order.image), tuple(map(self._layer_path, order.layers)))
        boot = Boot(
            container, order.app, order.app_name, order.function, order.packed_spec, order.functions, order.env, order.parameters,
            tuple(Path(file.path).name for file in spec.source), order.image.id, self._parcels,
        )  # fmt: skip
        hosted = self.hosted[container] = Hosted(container, boot, self.report, self.run / "io" / container, self._turn, self.new_guest)
        if not spec.buckets and not any(mount.strict for mount in spec.volumes):  # what holds those lives with the server
            hosted.record = ContainerRecord(
                container, order.app, spec.tag, order.function, order.packed_spec, order.image.id, order.layers, order.parameters, order.node,
                order.gpu_type, order.devices, squall.__version__,
            )  # fmt: skip
        self._own(self._run(hosted, boot, plan), f"container {container}")

    def _image(self, image: ImageName) -> BuiltImage:
        layers = tuple(map(self._layer_path, image.layers))
        return BuiltImage(ImageId(image.id), layers, image.env, image.workdir, image.python, image.python_version, image.entrypoint)

    async def _run(self, hosted: Hosted, boot: Boot, plan: ContainerPlan) -> None:
        async with AsyncExitStack() as stack:
            try:
                supplies = Supplies() if self.supply is None else await stack.enter_async_context(self.supply(plan.order.app, plan.spec, hosted.id))
                boot.env = {**supplies.env, **plan.order.env}
                starting = hosted.starting = asyncio.create_task(self._start(hosted, boot, plan, supplies.binds), name=f"start {hosted.id}")
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
                self.report(CouldNotStart(hosted.id, Fault(0, cause.code, str(cause), cause.details())))
                return
            await self._watch(hosted)

    async def _start(self, hosted: Hosted, boot: Boot, plan: ContainerPlan, volumes: tuple[Bind, ...]) -> Container:
        order, image, spec = plan.order, plan.image, plan.spec
        isolated = self.driver.capabilities.images
        if volumes and not isolated:
            raise UnsupportedError("volumes need containers of their own: run the server as root on Linux with runc (squall doctor says what is missing)")
        gvisor = spec.runtime == "gvisor"
        if gvisor and not isolated:
            raise UnsupportedError('runtime="gvisor" needs containers of their own: run the server as root on Linux (squall doctor says what is missing)')
        inside = INSIDE if isolated else str(hosted.directory)
        env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **self.base_env,
            **image.env,
            CONTAINER_VARIABLE: order.container,
            SOCKET_VARIABLE: f"{inside}/agent.sock",
            "SQUALL_IS_REMOTE": "1",
            # What programs written for Modal look at (the reference's section on configuration).
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": order.container,
            "MODAL_IMAGE_ID": image.id,
        }
        workdir, library = image.workdir, LIBRARY
        entrypoint = (image.entrypoint or ()) if isolated else ()
        hosted.entrypoint = " ".join(entrypoint)
        hosted.listen(self.owner)
        if isolated:
            # The sources are there, whatever the working directory of the image; what a function starts finds them too.
            env["PYTHONPATH"] = f"{env['PYTHONPATH']}:/root" if env.get("PYTHONPATH") else "/root"
        else:
            workdir, library = await asyncio.to_thread(_workspace, hosted.directory, (*image.layers, *plan.layers))
            env["HOME"] = workdir
            env["PATH"] = f"{Path(image.python).parent}:{os.environ.get('PATH', env['PATH'])}"
        edits = await asyncio.to_thread(self.edits_of, order.devices) if order.devices else cdi.Edits()
        env |= edits.env
        hosted.env, hosted.workdir = env, workdir
        stdout, stderr = hosted.writers()
        try:
            wanted = ContainerSpec(
                id=hosted.id,
                layers=(*image.layers, *plan.layers),
                argv=(*entrypoint, image.python, "-c", BOOTSTRAP.format(library=library)),
                env=env,
                stdout=stdout,
                stderr=stderr,
                workdir=workdir,
                hostname=hosted.id[:15],
                binds=(Bind(hosted.directory, INSIDE), *self.binds, *volumes, *edits.binds) if isolated else (),
                resources=spec.resources,
                devices=edits.nodes,
                links=edits.links,
                network=Network.NONE if spec.block_network else Network.NAT,
                outbound=None if spec.outbound_cidrs is None else tuple(map(IPv4Network, spec.outbound_cidrs)),
                rights=False,
                gvisor=gvisor,
            )
            hosted.phases["image_s"] = hosted.since_asked()
            if self.templates is None:
                return await self._start_plainly(wanted)
            if gvisor or entrypoint:
                hosted.not_forked = 'the function says runtime="gvisor"' if gvisor else f"the image's entrypoint, {entrypoint[0]}, starts each container"
                return await self._start_plainly(wanted)
            copied = await self.templates.start(plan, wanted, boot, library=library, chosen=hosted.copied)
            if isinstance(copied, str):
                hosted.not_forked = copied
                return await self._start_plainly(wanted)
            for stream, text in copied.output:
                hosted.printed(stream, text.encode())
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

    def prepare(self, order: PrepareImage) -> None:
        """Have a template of the image made meanwhile."""
        if self.templates is not None and order.layers and not order.image.entrypoint:
            self.templates.prepare(self._image(order.image), self._layer_path(order.layers[0]), LIBRARY)

    # questions

    def usage(self, container: str) -> Usage | None:
        """What a container uses; None where that is not known."""
        hosted = self.hosted.get(ContainerId(container))
        used = hosted.container.usage() if hosted is not None and hosted.container is not None else None
        return None if used is None else Usage(used.cpu_s, used.memory_bytes)

    def runnable(self) -> int:
        """Threads on this machine that have a core or wait for one; 0 where that can't be read."""
        try:
            text = Path("/proc/stat").read_text()
        except OSError:
            return 0
        return int(text.partition("procs_running ")[2].partition("\n")[0] or 0)

    def web_links(self, container: str) -> WebLinks | None:
        """The connections for web requests of a container; None of one that is not there."""
        hosted = self.hosted.get(ContainerId(container))
        return None if hosted is None else hosted.web

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


def _dropped(message: ToContainer) -> None:
    """Its container is not there."""


#: What each order is carried out by.
_ORDERS: dict[type[Any], Callable[[Agent, Any], None]] = {
    StartContainer: Agent.start,
    KeepContainer: Agent.keep,
    Tell: Agent.tell,
    KillContainer: Agent.kill,
    PrepareImage: Agent.prepare,
}


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
