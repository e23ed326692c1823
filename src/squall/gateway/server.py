"""The server: what it is made of, the sockets that it listens on, and its end."""

import asyncio
import errno
import os
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import squall
from squall.control.apps.apps import Apps
from squall.control.apps.deployments import Deployments
from squall.control.apps.schedules import Schedules
from squall.control.apps.web_routes import WebRoutes
from squall.control.calls.pool import Pool
from squall.control.calls.pool_container import Member
from squall.control.calls.router import Router
from squall.control.logs import LogBook
from squall.control.objects.storage import State
from squall.control.retention import Retention
from squall.gateway.auth.unauthenticated import Strangers, TlsDoor
from squall.gateway.rpc import outbox
from squall.gateway.rpc.session import ClientPeer, Session
from squall.model.errors import ResourceExhaustedError
from squall.model.ids import ContainerId
from squall.runtime.contract import Driver
from squall.store.blobs import BlobDirectory
from squall.store.contract import Store
from squall.wire.messages import ContainerProgress
from squall.wire.stream import Turn
from squall.worker.agent import Agent
from squall.worker.containers.managed_container import ContainerPeer

if TYPE_CHECKING:
    from squall.gateway.ingress.ingress import Ingress


class Server:
    """Holds the parts (made by `wiring`) and the sessions."""

    def __init__(self, *, data: Path, server_id: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.turn = Turn(self.loop)
        self.data, self.id = data, server_id
        self.version = squall.__version__
        self.started_at = time.time()
        self.store: Store
        self.blobs: BlobDirectory
        self.driver: Driver
        self.agent: Agent
        self.logs: LogBook
        self.router: Router
        self.apps: Apps
        self.state: State
        self.retention: Retention
        self.deployments: Deployments
        self.schedules: Schedules
        self.web: WebRoutes
        self.ingress: Ingress
        #: Digests of secrets by kind of token and its id.
        self.tokens: dict[str, dict[str, str]] = {}
        #: Bytes of answers that a connection may leave unread.
        self.unread_bytes = outbox.UNREAD_BYTES_MAX
        #: Requests under way of clients in containers, by container.
        self.guest_requests: Counter[str] = Counter()
        self.listening: list[str] = []
        self.stopping = asyncio.Event()
        #: Whether containers are to go on for the next server, which is about to start.
        self.leaving = False
        self._sockets: list[asyncio.Server | TlsDoor] = []
        #: Connections over TCP that have not shown the token.
        self.strangers = Strangers()
        self._watchers: dict[str, list[Callable[[ContainerProgress], None]]] = {}

    def new_guest(self, peer: ContainerPeer, container: ContainerId) -> Session:
        """A client inside a container said hello."""
        return Session(self, peer, container=container)

    def session_ended(self, session: Session) -> None:
        self.apps.release(session)
        self.state.release(session)

    # listening

    async def listen_unix(self, path: Path) -> None:
        """On a unix socket that only this user can open."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        parcels = str(self.router.parcels.directory) if self.router.parcels is not None else ""
        mask = os.umask(0o177)
        try:
            self._sockets.append(await self.loop.create_unix_server(lambda: ClientPeer(self.turn, self, parcels=parcels), str(path), backlog=1024))
        finally:
            os.umask(mask)
        self.listening.append(f"unix://{path}")

    async def listen_tcp(self, host: str, port: int, token: str, tls: ssl.SSLContext | None) -> None:
        """On TCP; every client needs the token.

        Raises:
            ResourceExhaustedError: the port is in use, or the address is not this machine's.
        """
        try:
            server: asyncio.Server | TlsDoor
            if tls is not None:
                server = TlsDoor(host, port, tls, self.strangers, lambda: ClientPeer(self.turn, self, token))
            else:
                server = await self.loop.create_server(lambda: ClientPeer(self.turn, self, token), host, port)
        except OSError as error:
            why = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
            raise ResourceExhaustedError(f"can't listen on {host}:{port}: {why}; choose another with --listen") from error
        self._sockets.append(server)
        port = server.sockets[0].getsockname()[1]
        self.listening.append(f"{'tls' if tls else 'tcp'}://{host}:{port}")

    def stop(self, *, leave: bool = False) -> None:
        """Begin to end. `leave`: without what runs here, which the next server takes over."""
        self.leaving = leave and not self.stopping.is_set()
        self.stopping.set()

    async def leave(self) -> None:
        """Take no more, and bring to disk what there is. The process is to end at once: what comes from here on, containers tell the next server."""
        for server in self._sockets:
            server.close()
        self.ingress.stop_accepting()
        self.router.history.save()
        await self.router.settle()
        await self.store.close()

    async def close(self) -> None:
        """End apps and containers, then everything else."""
        self.schedules.close()
        await self.deployments.close()
        self.ingress.stop_accepting()
        await self.apps.close()
        for server in self._sockets:
            server.close()
        await self.agent.close()
        await self.state.close()
        self.ingress.close()
        self.router.history.save()
        await self.router.settle()

    async def tokens_changed(self) -> None:
        """Read them anew."""
        self.tokens = {}
        for row in await self.store.tokens():
            self.tokens.setdefault(row.kind, {})[row.id] = row.digest

    # events

    @contextmanager
    def container_events(self, app: str, callback: Callable[[ContainerProgress], None]) -> Iterator[None]:
        """Tell `callback` of each change of a container of the app."""
        watchers = self._watchers.setdefault(app, [])
        watchers.append(callback)
        try:
            yield
        finally:
            watchers.remove(callback)
            if not watchers:
                self._watchers.pop(app, None)

    def container_changed(self, pool: Pool, member: Member, state: str, reason: str) -> None:
        """From the router."""
        watchers = self._watchers.get(pool.function.app)
        if watchers:
            seconds = self.router.now() - member.created
            for callback in watchers:
                callback(ContainerProgress(0, member.id, pool.spec.tag, state, reason, seconds))
