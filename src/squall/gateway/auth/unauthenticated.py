"""Connections from outside that have not shown who they are: how many there may be, and how they end."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any

from squall.wire.descriptors import scarce

log = logging.getLogger(__name__)

#: Connections without a Hello: of one address, and of all.
PER_ADDRESS_MAX, STRANGERS_MAX = 256, 2_048
#: From accepting a connection to the end of its TLS handshake.
HANDSHAKE_S = 5.0
#: So long an accept that failed waits for the next.
ACCEPT_PAUSE_S = 0.1


class Strangers:
    """Those of one door, in the order in which they came. When they are too many, the oldest is dropped: whoever has a token shows it at once."""

    def __init__(self, per_address: int = PER_ADDRESS_MAX, most: int = STRANGERS_MAX) -> None:
        self._per_address, self._most = per_address, most
        self._drops: dict[object, tuple[str, Callable[[], object]]] = {}
        self._by_address: dict[str, dict[object, None]] = {}

    def enter(self, who: object, address: str, drop: Callable[[], object]) -> None:
        """A connection came. `drop` ends it."""
        self.leave(who)
        same = self._by_address.setdefault(address, {})
        same[who] = None
        self._drops[who] = address, drop
        if len(same) > self._per_address:
            self._drop(next(iter(same)))
        elif len(self._drops) > self._most:
            self._drop(next(iter(self._drops)))

    def leave(self, who: object) -> None:
        """It has shown who it is, or is gone. Idempotent."""
        if (known := self._drops.pop(who, None)) is not None:
            same = self._by_address[known[0]]
            del same[who]
            if not same:
                del self._by_address[known[0]]

    def _drop(self, who: object) -> None:
        drop = self._drops[who][1]
        self.leave(who)
        drop()


def address_of(transport: asyncio.BaseTransport) -> str:
    """Of the other side, as limits count it."""
    name = transport.get_extra_info("peername")
    return counted(name[0]) if isinstance(name, tuple) else ""


def counted(address: str) -> str:
    """The address that limits count: of IPv6 the network of 64 bits, all of which one customer has."""
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    return str(parsed.ipv4_mapped or ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def last_descriptors(transport: asyncio.BaseTransport) -> bool:
    """Whether this connection has one of the descriptors that are kept back."""
    return scarce(transport.get_extra_info("socket").fileno())


class TlsDoor:
    """Listens for TLS. Event loops tell of such a connection only after its handshake; here it counts from the moment when it is accepted."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, strangers: Strangers, factory: Callable[[], asyncio.Protocol]) -> None:
        """
        Raises:
            OSError: it can't listen there.
        """
        self.sockets: list[socket.socket] = []
        try:
            for family, _, _, _, address in dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)):
                self.sockets.append(_listening(family, address))
        except OSError:
            self._close_sockets()
            raise
        self._context, self._strangers, self._factory = context, strangers, factory
        self._loop = asyncio.get_running_loop()
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting = [self._loop.create_task(self._accept(each), name=f"accept TLS at {host}:{port}") for each in self.sockets]

    def close(self) -> None:
        """Accept nobody any more."""
        for task in (*self._accepting, *self._handshakes):
            task.cancel()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for each in self.sockets:
            each.close()

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, name = await self._loop.sock_accept(listening)
            except OSError as error:
                log.warning("can't accept a connection just now: %s", error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if scarce(connection.fileno()):
                connection.close()
                continue
            task = self._loop.create_task(self._shake_hands(connection))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)
            self._strangers.enter(task, counted(name[0]), task.cancel)

    async def _shake_hands(self, connection: socket.socket) -> None:
        task = asyncio.current_task()
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):  # its handshake is wrong, or lasts too long
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self._loop.connect_accepted_socket(self._factory, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S)
                return
            connection.close()
        finally:
            self._strangers.leave(task)


def _listening(family: int, address: Any) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError:
        listening.close()
        raise
    return listening
