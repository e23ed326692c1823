"""One life of a simulated server: the production router and apps, joined as `gateway.wiring` joins them, and sessions as `gateway.session` has them."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

from squall.control.apps.apps import Apps
from squall.control.calls.history import History
from squall.control.calls.router import Router
from squall.control.faults import fault
from squall.control.logs import LogBook
from squall.control.nodes.node_link import NodeLink
from squall.core.placement import Node
from squall.images.built import BuiltImage
from squall.model.errors import Error
from squall.model.ids import ImageId
from squall.model.states import AppState
from squall.testing.containers import Machines, SimulatedAgent
from squall.testing.disk import Disk, SimulatedStore
from squall.testing.links import End
from squall.testing.node_links import NodeConnection
from squall.testing.virtual import Process
from squall.wire.messages import PROTOCOL_VERSION, Await, Call, Cancel, Credit, Done, Hello, Reply, Request, StartApp, StopApp, Welcome

_IMAGE = BuiltImage(ImageId("im-simulated"), (), {}, "/root", "/usr/bin/python3", "3.11")


class _Builder:
    """Images are there already: what a build does is not simulated."""

    def peek(self, spec: Any, *, scope: str) -> BuiltImage:
        return _IMAGE

    async def source_layer(self, files: Any) -> None:
        return None

    async def runner_layer(self, image: Any) -> Path:
        return Path("/layers/runner/fs")


class SimulatedServer:
    """Made in its own process. `open` first; then `close`, or the process is killed and `store.crash` called."""

    def __init__(self, process: Process, machines: Machines, disk: Disk, nodes: int, folder: Path, *, remote: bool = False) -> None:
        """
        Args:
            remote: agents have connections; else they are in the server's process.
        """
        self.process, self.machines = process, machines
        self.store = SimulatedStore(disk)
        self.nodes = [Node(f"node{number}", 4.0, 16_384) for number in range(nodes)]
        self.logs = LogBook(folder / "logs")
        machines.nodes = {node.name: node for node in self.nodes}
        self.agents = {node.name: SimulatedAgent(machines, process, node.name) for node in self.nodes}
        rng = machines.rng
        self.connections = {name: NodeConnection(process, machines.weather, rng, agent) for name, agent in self.agents.items()} if remote else {}
        self.router: Router
        self.apps: Apps

    async def open(self) -> None:
        await self.store.open()
        live = {row.id for row in await self.store.apps([AppState.RUNNING, AppState.DEPLOYED])}
        for agent in self.agents.values():
            agent.open(lambda record: record.app in live)
        first_token = await self.store.highest_token()
        links = {name: NodeLink(self.connections[name].remote if self.connections else agent) for name, agent in self.agents.items()}
        for connection in self.connections.values():
            connection.run()
            await connection.remote.heard.wait()
        self.router = Router(store=self.store, links=links, logs=self.logs, nodes=self.nodes, first_token=first_token)
        self.router.history = History(None, self.router.own)
        self.router.returns.begin()
        self.apps = Apps(router=self.router, store=self.store, builder=cast(Any, _Builder()))
        await self.apps.recover()

    async def close(self) -> None:
        """As `squall server stop`."""
        await self.apps.close()
        for agent in self.agents.values():
            await agent.close()
        await self.router.settle()
        await self.store.close()


class SimulatedSession:
    """A client's connection; implements the router's `Caller`."""

    def __init__(self, server: SimulatedServer, end: End) -> None:
        self.server, self.end = server, end
        self.gone = False
        self._tasks: dict[asyncio.Task[None], None] = {}  # in order, unlike a set
        end.received, end.lost = self.received, self.lost

    def send(self, message: Any) -> None:
        self.end.send(message)

    def received(self, message: Any) -> None:
        router = self.server.router
        match message:
            case Hello():
                self.send(Welcome(PROTOCOL_VERSION, "sv-simulated"))
            case Call():
                router.submit(message, self)
            case Await():
                router.waits.wait_for(message, self)
            case Credit():
                router.credit(message)
            case Cancel():
                router.cancel(message)
            case Request(number, StartApp() as command):
                apps = self.server.apps
                self._own(self._answer(number, apps.start(command.app, command.spec, self, lambda _: None, detach=command.detach, environment="main")))
            case Request(number, StopApp(app)):
                self._own(self._answer(number, self._stop(app)))

    async def _stop(self, app: str) -> Done:
        await self.server.apps.stop(app)
        return Done()

    async def _answer(self, request: int, work: Awaitable[Any]) -> None:
        try:
            self.send(Reply(request, await work))
        except Error as error:
            self.send(fault(request, error))

    def _own(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def lost(self, error: BaseException | None) -> None:
        self.gone = True
        for task in self._tasks:
            task.cancel()
        self.server.apps.release(self)
