"""Builds the real parts of a server and joins them; tests build others."""

import asyncio
import contextlib
import hashlib
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from squall.control import logs, retention
from squall.control.apps.apps import Apps
from squall.control.apps.deployments import Deployments
from squall.control.apps.schedules import Schedules
from squall.control.apps.web_routes import WebRoutes
from squall.control.calls import class_pools
from squall.control.calls.payload_files import Parcels
from squall.control.calls.router import Router
from squall.control.nodes.build_gpus import Loans
from squall.control.nodes.node_link import NodeLink
from squall.control.objects import ephemeral_budget
from squall.control.objects.storage import State
from squall.core.placement import Node
from squall.gateway.ingress.ingress import Ingress
from squall.gateway.rpc import outbox
from squall.gateway.rpc.images import in_use
from squall.gateway.server import Server
from squall.images.builder import Builder
from squall.images.host import services, surroundings
from squall.images.settings import ImageSettings, from_environment
from squall.model.errors import InvalidError
from squall.model.ids import LayerKey, make_id
from squall.model.states import AppState
from squall.runtime.cdi import folders_of
from squall.runtime.contract import Bind, Driver
from squall.runtime.host import choose_driver
from squall.runtime.memory import for_containers_mib
from squall.runtime.reown import settle, settled
from squall.store.blobs import BlobDirectory
from squall.store.sql import SqlStore
from squall.worker.agent import Agent
from squall.worker.gpu_inventory import gpus

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """Of one server. `driver` None: the best that this host allows."""

    data: Path
    driver: str | None = None
    #: Where web functions are reached: host and port; port 0 is any free one, kept for next time. None: loopback, the usual port.
    web: tuple[str, int] | None = None
    #: What their addresses end in (``example.org``), and the certificate for all of it; None: ``localhost``, and HTTP without TLS.
    web_domain: str | None = None
    web_tls: ssl.SSLContext | None = None

    @property
    def instance(self) -> str:
        """A short name that no other server on this machine has: it is made from the data directory."""
        return "s" + hashlib.sha256(os.fsencode(self.data)).hexdigest()[:7]

    @property
    def run(self) -> Path:
        """Sockets and mount points: below /run for root, since users that containers are mapped to must be able to pass through."""
        return Path("/run/squall") / self.instance if os.getuid() == 0 else self.data / "run"


@asynccontextmanager
async def running_server(settings: Settings) -> AsyncIterator[Server]:
    """A server with all its parts, not listening yet. At the end everything of it is gone."""
    data, run = settings.data, settings.run
    keep, opened = retention.from_environment(os.environ), _private_networks(os.environ)
    class_limits = class_pools.from_environment(os.environ)
    for directory in (data, run):
        directory.mkdir(parents=True, exist_ok=True, mode=0o711)
    async with AsyncExitStack() as stack:
        if run.is_relative_to("/run/squall"):
            stack.callback(_remove_run_directory, run)
        server = Server(data=data, server_id=make_id("sv", time.time_ns() // 1_000_000, os.urandom(10)))
        store = SqlStore(os.environ.get("SQUALL_DATABASE_URL") or data / "store" / "squall.db")
        (data / "store").mkdir(exist_ok=True, mode=0o700)
        await store.open()
        stack.push_async_callback(store.close)
        driver, report = await choose_driver(run=run, data=data, instance=settings.instance, driver=settings.driver)
        log.info("driver %s: %s", driver.name, report.reason)
        await driver.open()
        stack.push_async_callback(driver.close)
        await driver.allow(opened, await asyncio.to_thread(services))
        server.store, server.driver = store, driver
        server.blobs = _blobs(data / "blobs", os.environ.get("SQUALL_BLOBS"))
        server.logs = logs.LogBook(data / "logs" / "containers", logs.from_environment(os.environ))
        stack.callback(server.logs.close_all)
        volumes = Path(os.environ.get("SQUALL_VOLUMES_DIR") or data / "volumes")
        if driver.capabilities.images:
            await _settle_files(driver, (data / "layers", data / "cache", volumes))
        image_settings = from_environment(os.environ, containers=driver.capabilities.images)
        builder = Builder(data=data, driver=driver, blobs=server.blobs, settings=image_settings)
        await builder.sweep()
        env, binds = _from_host(image_settings, inside=driver.capabilities.images)
        parcels = Parcels(data / "parcels")
        parcels.open()
        stack.callback(parcels.close)
        agent = server.agent = Agent(
            driver=driver, run=run, owner=image_settings.uid_base, new_guest=server.new_guest, base_env=env, binds=binds, parcels=parcels.directory,
            cdi_folders=folders_of(os.environ), layer_path=lambda name: builder.layers.path(LayerKey(name)),
        )  # fmt: skip
        live = {row.id for row in await store.apps([AppState.RUNNING, AppState.DEPLOYED])}
        await agent.open(lambda record: record.app in live)
        first_token, node = await store.highest_token(), _this_machine()
        router = server.router = Router(
            store=store, links={node.name: NodeLink(agent)}, logs=server.logs, nodes=[node], first_token=first_token, limits=class_limits
        )
        router.kept.directory, server.unread_bytes = parcels.directory, outbox.from_environment(os.environ)
        router.parcels, router.on_container = parcels, server.container_changed
        router.spawned.kept_s = keep.results_s
        await router.history.load()
        router.returns.begin()
        server.web, server.schedules = WebRoutes(), Schedules(router=router, store=store)
        server.apps = Apps(router=router, store=store, builder=builder, web=server.web, schedules=server.schedules)
        server.deployments = Deployments(apps=server.apps, router=router, store=store)
        server.ingress = Ingress(server, settings.web, domain=settings.web_domain, tls=settings.web_tls)
        server.web.listen = server.ingress.listen
        apps = server.apps
        server.state = State(
            store=store,
            blobs=server.blobs,
            data=data,
            volumes=volumes,
            owner=image_settings.uid_base,
            network=driver.network,
            environment_of=lambda app: apps.live[app].environment if app in apps.live else "main",
            limits=ephemeral_budget.from_environment(os.environ),
        )
        await server.state.open()
        agent.supply, apps.check = server.state.supply, server.state.check
        builder.actions.mount = server.state.volumes.bind
        builder.actions.lend = Loans(router, agent.edits_of).lend
        builder.resolve, builder.in_use = server.state.secrets.resolve, lambda: in_use(router)
        await server.apps.recover()
        await server.tokens_changed()
        await server.deployments.recover()

        def forget() -> None:
            router.spawned.recent.clear()
            router.history.forget(keep.history_s)

        server.retention = retention.Retention(store, keep, forget=forget, sweep_logs=server.logs.sweep)
        server.retention.open()
        stack.push_async_callback(server.retention.close)
        if settings.web is not None or server.tokens:
            await server.web.ensure_listening()
        stack.push_async_callback(server.close)
        yield server


async def _settle_files(driver: Driver, trees: Sequence[Path]) -> None:
    """Give containers' files to the ids that containers have now. Containers that an earlier version left running have earlier ones: they end."""
    trees = [tree for tree in trees if not settled(tree)]
    if trees:
        await driver.sweep(lambda container: False)
        for tree in trees:
            await asyncio.to_thread(settle, tree)


def _blobs(root: Path, url: str | None) -> BlobDirectory:
    """A local directory; with the URL of an object store that, too."""
    if not url:
        return BlobDirectory(root)
    from squall.store.object_store import open_url
    from squall.store.remote_blobs import RemoteBlobs

    store = open_url(url)
    store.probe()
    return RemoteBlobs(root, store)


def _remove_run_directory(run: Path) -> None:
    """Last of all, when the driver is closed: nothing is in it but empty directories and a lock that nobody holds. What else is there stays, to be found."""
    (run / "lock").unlink(missing_ok=True)
    for directory in (*sorted((path for path in run.rglob("*") if path.is_dir()), reverse=True), run):
        with contextlib.suppress(OSError):
            directory.rmdir()


def _this_machine() -> Node:
    cores = len(os.sched_getaffinity(0))
    return Node("local", cores, for_containers_mib(os.environ), gpus())


def _private_networks(environ: Mapping[str, str]) -> tuple[IPv4Network, ...]:
    """What `SQUALL_PRIVATE_NETWORKS` opens to containers."""
    text = environ.get("SQUALL_PRIVATE_NETWORKS", "")
    try:
        return tuple(IPv4Network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidError(
            f"SQUALL_PRIVATE_NETWORKS={text!r} must be IPv4 networks with commas between them, such as 10.1.0.0/16,192.168.1.5/32: {error}"
        ) from None


def _from_host(settings: ImageSettings, *, inside: bool) -> tuple[dict[str, str], tuple[Bind, ...]]:
    """What every container takes over from this machine: certificates and proxies, but no package indexes."""
    found = surroundings(settings, inside=inside)
    env = {name: value for name, value in found.env.items() if "CERT" in name or "CA" in name.split("_") or "PROXY" in name.upper()}
    env = {name: value for name, value in env.items() if not name.startswith(("UV_", "PIP_"))}
    wanted = set(env.values())
    return env, tuple(bind for bind in found.binds if bind.target in wanted) if inside else ()
