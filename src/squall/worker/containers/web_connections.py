"""Connections that a container's runner opened to its agent for web requests: each carries plain HTTP/1.1, one request at a time, and is used again."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from squall.wire.messages import OpenWeb, ToRunner

#: Idle connections kept for a container; each holds a descriptor here.
IDLE_MAX = 128


class LinkUser(Protocol):
    """One web request, as its connection sees it."""

    def link_ready(self, link: "WebLink") -> None: ...

    def link_data(self, data: bytes) -> None: ...

    def link_paused(self, paused: bool) -> None: ...

    def link_eof(self) -> bool:
        """The runner sends no more. True: this side still does."""
        ...

    def link_lost(self) -> None: ...


class WebLink(asyncio.Protocol):
    """One connection. `user` is set while a request has it; `used` counts requests."""

    def __init__(self, links: "WebLinks", transport: asyncio.Transport) -> None:
        self.links, self.transport = links, transport
        self.user: LinkUser | None = None
        self.used = 0
        self.lost = False

    def data_received(self, data: bytes) -> None:
        if self.user is not None:
            self.user.link_data(data)
        else:  # nobody asked for anything
            self.transport.abort()

    def eof_received(self) -> bool:
        return self.user is not None and self.user.link_eof()

    def pause_writing(self) -> None:
        if self.user is not None:
            self.user.link_paused(True)

    def resume_writing(self) -> None:
        if self.user is not None:
            self.user.link_paused(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.links.forget(self)
        user, self.user = self.user, None
        if user is not None:
            user.link_lost()


class WebLinks:
    """Of one container. `send` passes a message to its runner."""

    def __init__(self, send: Callable[[ToRunner], None]) -> None:
        self._send = send
        self._idle: list[WebLink] = []
        self._all: set[WebLink] = set()
        self._waiting: deque[LinkUser] = deque()
        #: Connections that the runner was asked for and has not made.
        self._asked = 0
        self.closed = False

    def acquire(self, user: LinkUser, *, fresh: bool = False) -> None:
        """Give `user` a connection: an idle one at once (unless `fresh`), else one that the runner is asked for. `link_lost` when there will be none."""
        if self.closed:
            user.link_lost()
            return
        if self._idle and not fresh:
            self._hand(self._idle.pop(), user)
            return
        self._waiting.append(user)
        self._asked += 1
        self._send(OpenWeb(1))

    def give_up(self, user: LinkUser) -> None:
        """`user` waits no longer; the connection that comes is the next one's."""
        if user in self._waiting:
            self._waiting.remove(user)

    def release(self, link: WebLink, *, reusable: bool) -> None:
        """The request is over. A connection with half a message on it is closed."""
        link.user = None
        if not reusable or link.lost or self.closed or len(self._idle) >= IDLE_MAX:
            link.transport.close()
        elif self._waiting:
            self._hand(link, self._waiting.popleft())
        else:
            self._idle.append(link)

    def accept(self, transport: asyncio.BaseTransport) -> None:
        """The runner connected. Connections that nobody asked for are closed: each holds a descriptor here."""
        if not self._asked:
            transport.abort()  # type: ignore[attr-defined]
            return
        self._asked -= 1
        link = WebLink(self, cast(asyncio.Transport, transport))
        link.transport.set_protocol(link)
        self._all.add(link)
        if self._waiting:
            self._hand(link, self._waiting.popleft())
        else:
            self._idle.append(link)

    def _hand(self, link: WebLink, user: LinkUser) -> None:
        link.user = user
        link.used += 1
        user.link_ready(link)

    def forget(self, link: WebLink) -> None:
        self._all.discard(link)
        if link in self._idle:
            self._idle.remove(link)

    def close(self) -> None:
        """The container is gone. Idempotent."""
        self.closed = True
        for link in list(self._all):
            link.transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for user in waiting:
            user.link_lost()
