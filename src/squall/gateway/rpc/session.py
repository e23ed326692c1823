"""One client's connection: calls go to the router, requests are answered one task each."""

import asyncio
import hmac
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from squall.control.faults import fault
from squall.gateway.auth.local_peer import is_owner
from squall.gateway.auth.rights import Right
from squall.gateway.auth.unauthenticated import address_of, last_descriptors
from squall.gateway.rpc import dispatch, operations
from squall.gateway.rpc.outbox import Outbox
from squall.model.errors import AuthError, ConnectionError, Error, InternalError, PermissionDeniedError, ResourceExhaustedError, VersionError
from squall.model.options import words
from squall.wire.framing import FRAME_BYTES_MAX
from squall.wire.messages import (
    PROTOCOL_VERSION,
    Await,
    Call,
    Cancel,
    Command,
    Credit,
    Fault,
    FromClient,
    Hello,
    Reply,
    Request,
    Typed,
    Welcome,
)
from squall.wire.state import Abandon
from squall.wire.stream import Peer, Turn

if TYPE_CHECKING:
    from squall.control.calls.pool import Pool
    from squall.gateway.server import Server

log = logging.getLogger(__name__)

#: Code of the answer to a Cancel of nothing: a client asks for it to wake its own reader.
ECHO = "echo"


#: Requests under way at a time of all clients in one container; each is a task here.
GUEST_REQUESTS_MAX = 10_000
#: Of those whose answers may be large, so many of one client in a container are worked at; the next begins when an answer was read.
GUEST_LARGE_MAX = 16
#: Before its Hello a connection may send frames of this size, and over TCP it has this long.
HELLO_BYTES_MAX, HELLO_S = 64 << 10, 5.0
#: Waits of one connection for what only the store has: so many may be unanswered, and so many are looked up at a time.
AWAITS_MAX, LOOKING_MAX = 100_000, 8
#: Of `Typed` that come before the command that they are for has started.
TYPED_EARLY_MAX = 256


class Typing:
    """What is typed for one request: kept until somebody takes it."""

    def __init__(self) -> None:
        self._early: list[Typed] = []
        self._take: Callable[[Typed], None] = self._keep

    def put(self, typed: Typed) -> None:
        self._take(typed)

    def taken_by(self, take: Callable[[Typed], None]) -> None:
        """From now on, beginning with what came so far."""
        self._take = take
        for typed in self._early:
            take(typed)
        self._early.clear()

    def _keep(self, typed: Typed) -> None:
        if len(self._early) < TYPED_EARLY_MAX:
            self._early.append(typed)


class Session:
    """A client. `container` is set for one inside a container, `parcels` for one that can write large arguments there. Implements the router's `Caller`."""

    def __init__(
        self, server: "Server", peer: Peer[Any], *, container: str = "", token: str | None = None, parcels: str = "", right: Right = Right.EVERYTHING
    ) -> None:
        self.server, self.peer, self.container, self._parcels = server, peer, container, parcels
        #: What it may do; of a client in a container the table of operations says.
        self.right = right
        self.outbox = Outbox(peer, server.unread_bytes, self._overflowed)
        self.send: Callable[[Any], None] = self.outbox.send
        #: Told when its Hello was accepted.
        self.greeted: Callable[[], None] = lambda: None
        #: The address of this machine at which a client over the network has found the server.
        self.reached_at = ""
        self.gone = False
        self.client = ""
        self._token = token
        self._greeted = self._refused = False
        self._submit = server.router.submit
        self._large = asyncio.Semaphore(GUEST_LARGE_MAX) if container else None
        #: Waits for what only the store has, and those of them that are looked up now.
        self._awaits: deque[Await] = deque()
        self._looking = 0
        self._tasks: set[asyncio.Task[None]] = set()
        #: Tasks of requests under way, by the client's number.
        self._requests: dict[int, asyncio.Task[None]] = {}
        self.following: set[str] = set()
        #: What is typed for requests under way, by the client's number.
        self.typing: dict[int, Typing] = {}

    @property
    def pool(self) -> "Pool | None":
        """Of a client inside a container: the pool that it belongs to."""
        return self.server.router.pool_of(self.container)

    @property
    def inside(self) -> bool:
        """Whether it is a client inside a container that has a network, with no limits on it."""
        return bool(self.container) and (pool := self.pool) is not None and not pool.spec.block_network and pool.spec.outbound_cidrs is None

    @property
    def web_base(self) -> str:
        """Where this client reaches web functions, if not at the addresses that all know; empty: at those."""
        if self.inside:
            return self.server.web.inside
        return self.server.ingress.seen_at(self.reached_at) if self.reached_at else ""

    @property
    def needs_token(self) -> bool:
        return self._token is not None

    @property
    def may_deploy(self) -> bool:
        """Whether it is a client inside a container whose function was declared with ``may_deploy=True``."""
        return bool(self.container) and (pool := self.pool) is not None and pool.spec.may_deploy

    def received(self, message: Any) -> None:
        if not self._greeted:
            if not self._refused:  # what was sent behind a refused Hello gets no answer
                self._greet(message)
            return
        kind = type(message)
        if kind is Call:
            self._submit(message, self)
        elif kind is Await:
            if self.server.router.waits.is_at_hand(message):
                self.server.router.waits.wait_for(message, self)
            else:
                self._look_up_later(message)
        elif kind is Credit:
            self.server.router.credit(message)
        elif kind is Cancel:
            if message.call:
                self.server.router.cancel(message)
            else:
                self.send(Fault(0, ECHO, ""))
        elif kind is Request:
            self._ask(message)
        elif kind is Typed:
            if message.request in self._requests:
                self.typed(message.request).put(message)
        elif kind is Abandon and (task := self._requests.get(message.request)) is not None:
            task.cancel()

    def _look_up_later(self, message: Await) -> None:
        """A few at a time, and the next when the client has read: a result of the store may be large, and thousands may ask for it."""
        if len(self._awaits) >= AWAITS_MAX:
            self.send(fault(message.request, ResourceExhaustedError(f"{AWAITS_MAX:,} waits of this connection are not answered yet; read the answers first")))
            return
        self._awaits.append(message)
        if self._looking < LOOKING_MAX:
            self._looking += 1
            self._own(self._look_up())

    async def _look_up(self) -> None:
        try:
            while self._awaits:
                message = self._awaits.popleft()
                try:
                    await self.server.router.waits.look_up(message, self)
                except Exception as error:
                    log.exception("a wait failed")
                    self.send(fault(message.request, InternalError(f"the server failed at this wait: {type(error).__name__}: {error}")))
                await self.outbox.drain()
        finally:
            self._looking -= 1

    def _overflowed(self) -> None:
        """The client leaves too much unread. It gets what it has here and then the reason; what comes later is kept for its next connection."""
        self.gone, self._greeted = True, False
        limit = self.server.unread_bytes >> 20
        self.refuse(ResourceExhaustedError(f"more than {limit} MiB of answers were not read: read them, or start the server with a larger SQUALL_UNREAD_MIB"))

    def _ask(self, message: Request) -> None:
        if self.container:
            under_way = self.server.guest_requests
            if under_way[self.container] >= GUEST_REQUESTS_MAX:
                self.send(fault(message.request, ResourceExhaustedError(f"clients in one container may have {GUEST_REQUESTS_MAX} requests under way")))
                return
            under_way[self.container] += 1
        task = self._requests[message.request] = self._own(self._answer(message.request, message.command))
        if self.container:
            task.add_done_callback(self._asked)

    def _asked(self, task: "asyncio.Task[None]") -> None:
        under_way = self.server.guest_requests
        under_way[self.container] -= 1
        if not under_way[self.container]:
            del under_way[self.container]

    def typed(self, request: int) -> Typing:
        """What is typed for a request under way."""
        return self.typing.setdefault(request, Typing())

    def _greet(self, message: Any) -> None:
        if not isinstance(message, Hello):
            self.refuse(ConnectionError("the first message of a connection must be a Hello"))
        elif message.version != PROTOCOL_VERSION:
            self.refuse(
                VersionError(f"this server speaks protocol {PROTOCOL_VERSION}, the client {message.version}: install the same version of Squall on both")
            )
        elif self._token is not None and not hmac.compare_digest(self._token.encode(), (message.token or "").encode()):
            self.refuse(AuthError("the token is wrong or missing; set SQUALL_TOKEN to what `squall server token` prints on the server's machine"))
        elif self.container and (pool := self.pool) is not None and pool.spec.restricted:
            self.refuse(PermissionDeniedError(f"code in containers of {words(pool.spec.tag)} may not talk to the server: restrict_modal_access=True"))
        else:
            self._greeted = True
            self.greeted()
            self.client = message.name
            self.send(Welcome(PROTOCOL_VERSION, self.server.id, self.server.version, self._parcels))

    def refuse(self, error: Error) -> None:
        """Say why and hang up."""
        self._refused = True
        self.send(fault(0, error))
        self.outbox.close()

    async def _answer(self, request: int, command: Command) -> None:
        try:
            if self._large is not None and operations.find(command).large:
                async with self._large:
                    self.send(Reply(request, await dispatch.answer(self, request, command)))
                    await self.outbox.drain()
            else:
                self.send(Reply(request, await dispatch.answer(self, request, command)))
        except Error as error:
            self.send(fault(request, error))
        except Exception as error:
            log.exception("a request failed")
            self.send(
                fault(request, InternalError(f"the server failed at this request: {type(error).__name__}: {error}; its log has more (squall server logs)"))
            )
        finally:
            self._requests.pop(request, None)
            self.typing.pop(request, None)

    def _own(self, work: Any) -> asyncio.Task[None]:
        task = self.server.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def lost(self, error: BaseException | None) -> None:
        """The connection ended."""
        self.gone = True
        for task in self._tasks:
            task.cancel()
        self.server.session_ended(self)


class ClientPeer(Peer[FromClient]):
    """A connection from outside."""

    union = FromClient

    def __init__(self, turn: Turn, server: "Server", token: str | None = None, parcels: str = "") -> None:
        super().__init__(turn)
        self.session = Session(server, self, token=token, parcels=parcels, right=Right.OWNER if token is None else Right.EVERYTHING)
        self.received = self.session.received  # type: ignore[method-assign]  # one call less for each message
        self._unpacker.frame_bytes_max = HELLO_BYTES_MAX
        self.session.greeted = self._greeted
        self._strangers = server.strangers
        #: Over TCP, until the Hello.
        self._deadline: asyncio.TimerHandle | None = None

    def opened(self) -> None:
        if self.session.needs_token:
            assert self.transport is not None
            self.session.reached_at = str(self.transport.get_extra_info("sockname")[0])
            if last_descriptors(self.transport):
                self.transport.abort()
                return
            self._strangers.enter(self, address_of(self.transport), self.transport.abort)
            self._deadline = self.turn.loop.call_later(HELLO_S, self.transport.abort)
        else:
            self.session.right = Right.OWNER if is_owner(self.transport) else Right.EVERYTHING

    def _greeted(self) -> None:
        self._unpacker.frame_bytes_max = FRAME_BYTES_MAX
        self._no_stranger()

    def _no_stranger(self) -> None:
        self._strangers.leave(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def lost(self, error: BaseException | None) -> None:
        self._no_stranger()
        self.session.lost(error)

    def broken(self, error: Error) -> None:
        self.session.refuse(error)
