"""The connection between a simulated agent and its server: the product's two ends, and between them links that lose, repeat and delay."""

from functools import partial
from random import Random
from typing import Any

from squall.control.nodes.remote_agent import RemoteAgent
from squall.testing.containers import SimulatedAgent
from squall.testing.links import End, Link, Weather
from squall.testing.virtual import Process, VirtualLoop
from squall.worker.node_end import NodeEnd

#: Between two heartbeats, and between two tries to connect.
BEAT_S = 0.5


class LossyLink(Link):
    """Messages that arrive do so in their order, and some twice."""

    def __init__(self, loop: VirtualLoop, weather: Weather, rng: Random, node: Process, server: Process) -> None:
        super().__init__(loop, weather, node, server)
        self._fate = rng

    def carry(self, end: End, message: Any) -> None:
        fate = self._fate.random()
        if fate >= self._weather.loss_chance:
            super().carry(end, message)
            if fate >= 1.0 - self._weather.repeat_chance:
                super().carry(end, message)


class NodeConnection:
    """Of one agent: made again whenever it is gone. `remote` is what the server has in the place of the agent."""

    def __init__(self, process: Process, weather: Weather, rng: Random, agent: SimulatedAgent) -> None:
        self._process, self._weather, self._rng = process, weather, rng
        self.remote, self.end = RemoteAgent(), NodeEnd(agent)
        self.link: LossyLink | None = None

    def run(self) -> None:
        """Connect if need be, and beat."""
        if not self.end.is_connected:
            self._dial()
        self.end.beat()
        self._process.later(BEAT_S, self.run)

    def _dial(self) -> None:
        link = self.link = LossyLink(self._process.loop, self._weather, self._rng, self._process, self._process)
        link.near.received, link.far.received = self.end.received, partial(self.remote.received, link.far)
        link.near.lost = lambda error: self.end.lost(link.near)
        link.far.lost = lambda error: self.remote.lost(link.far)
        self.end.connected(link.near)
