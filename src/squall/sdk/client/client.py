"""The client: connections to the server, for blocking code and for event loops, and what happens when the server goes away."""

import contextlib
import os
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from squall.model.errors import BY_CODE, AuthError, ClientClosed, ConnectionError, InvalidError, RequestSizeError, SerializationError, VersionError, rebuild
from squall.model.ids import CALL, CLIENT, make_id
from squall.runner.context import SOCKET_VARIABLE
from squall.sdk.client.dual_method import ThreadTwin, at_once, in_thread
from squall.sdk.output import output
from squall.wire.address import Address, data_directory, default_address, parse_address
from squall.wire.blocking import BlockingConnection, readable
from squall.wire.messages import PROTOCOL_VERSION, Answer, Command, Fault, Hello, Reply, Request, ToClient, Welcome

#: How long a client goes on trying to reach a server that went away, before it gives up with ConnectionError.
RECONNECT_S = 60.0

Connection = BlockingConnection[ToClient]
OnEvent = Callable[[Any], None]

#: What ends a connection: the peer closed, or the socket broke.
BROKEN = (OSError, EOFError)


def new_call_id() -> str:
    """A call's id is made here, so that sending it again is harmless."""
    return make_id(CALL, time.time_ns() // 1_000_000, os.urandom(10))


class Client:
    """Connections to one server. Threads may share it; each blocking call has a connection to itself while it runs."""

    _default: "Client | None" = None
    _default_pid = 0

    #: What Modal's clients say of themselves; a container's is another.
    client_type = "client"

    def __init__(self, address: Address, *, embedded: bool = False, token: str | None = None, token_id: str = "") -> None:
        self.address, self.embedded, self._token = address, embedded, token
        self._token_id, self._closed = token_id, False
        self.id = make_id(CLIENT, time.time_ns() // 1_000_000, os.urandom(10))
        self.server_id = ""
        #: Where large arguments are put for a server of the same file system; empty before the first connection, and for others.
        self.parcels = ""
        #: Inputs that were sent from here, for the summary of a run.
        self.calls = 0
        self._idle: list[Connection] = []
        self._loops: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self._starting = threading.Lock()

    def __repr__(self) -> str:
        return f"<Client of {self.address}{f' as {self._token_id}' if self._token_id else ''}>"

    @property
    def server_url(self) -> str:
        """The server's address, as in SQUALL_SERVER_URL."""
        return str(self.address)

    @at_once
    def from_env() -> "Client":
        """As `default`; Modal's name of it."""
        return Client.default()

    @at_once
    def from_credentials(token_id: str, token_secret: str) -> "Client":
        """A client of the server of SQUALL_SERVER_URL with another token. Nothing is asked of the server before it is used.

        Args:
            token_id: a name that the client shows; a server's token has none.
            token_secret: the server's token.

        Raises:
            InvalidError: they are no text.
        """
        for name, value in (("token_id", token_id), ("token_secret", token_secret)):
            if not isinstance(value, str) or not value:
                raise InvalidError(f"{name}= of Client.from_credentials is not text")
        address, embedded = default_address()
        return Client(address, embedded=embedded, token=token_secret, token_id=token_id)

    @staticmethod
    def anonymous(server_url: str) -> "Client":
        """``with Client.anonymous(url) as client:`` without a token. Raises InvalidError: no address of a server."""
        return Client(parse_address(server_url))

    @in_thread
    def verify(server_url: str, credentials: tuple[str, str]) -> None:
        """Ask a server whether it takes these credentials.

        Raises:
            AuthError: it does not.
            ConnectionError: no server answers there.
        """
        token_id, token = credentials
        with Client(parse_address(server_url), token=token, token_id=token_id):
            pass

    @ThreadTwin
    def hello(self) -> None:
        """Connect to the server now.

        Raises:
            ConnectionError, AuthError, VersionError.
        """
        self.release(self.acquire())

    def __enter__(self) -> "Client":
        self._check_open()
        self.release(self.acquire())
        return self

    def __exit__(self, exc_type: object, exc: object, tb: object) -> None:
        self._close()

    async def __aenter__(self) -> "Client":
        self._check_open()
        await self.hello.aio()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @ThreadTwin
    def close(self) -> None:
        """End it: what asks by it from now on gets ClientClosed. More than once is harmless."""
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._drop_idle()

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed(f"{self!r} was closed")

    @classmethod
    def default(cls) -> "Client":
        """The client of this process: to its own agent inside a container, else to the server of SQUALL_SERVER_URL or the embedded one."""
        if cls._default is None or cls._default_pid != os.getpid() or cls._default._closed:
            if path := os.environ.get(SOCKET_VARIABLE):
                cls._default = cls(Address(path=path))
            else:
                address, embedded = default_address()
                cls._default = cls(address, embedded=embedded, token=os.environ.get("SQUALL_TOKEN"))
            cls._default_pid = os.getpid()
        return cls._default

    # connections

    def connect(self, *, start: bool = True) -> Connection:
        """A new connection, greeted. With `start`, the embedded server is started when none answers.

        Raises:
            ConnectionError: nobody listens there.
            AuthError, VersionError: the server refuses.
            ClientClosed: `close` was called.
        """
        self._check_open()
        try:
            sock = self._dial()
        except OSError as error:
            if not (start and self.embedded):
                raise ConnectionError(f"no server answers at {self.address}: {_why(error)}") from error
            sock = self._start_and_dial()
        connection: Connection = BlockingConnection(sock, ToClient)
        try:
            connection.send(Hello(PROTOCOL_VERSION, "client", self.id, "", self._token))
            self.greeted(connection.receive())
        except BROKEN as error:
            connection.close()
            raise ConnectionError(f"the server at {self.address} closed the connection: {error}") from error
        except (SerializationError, RequestSizeError) as error:
            connection.close()
            raise VersionError(f"there is no Squall server for clients at {self.address}: {error}") from error
        return connection

    def greeted(self, answer: Any) -> None:
        """Take the server's answer to the greeting. Raises AuthError or VersionError."""
        if isinstance(answer, Fault):
            raise rebuild(answer.code, answer.message, answer.details)
        if not isinstance(answer, Welcome):
            raise VersionError(f"what listens at {self.address} is no Squall server")
        self.server_id, self.parcels = answer.server_id, answer.parcels

    def _dial(self) -> socket.socket:
        address = self.address
        if address.path is not None:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(address.path)
            except OSError:
                sock.close()
                raise
            return sock
        sock = socket.create_connection((address.host, address.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls:
            import ssl

            return ssl.create_default_context(cafile=os.environ.get("SQUALL_CA_FILE")).wrap_socket(sock, server_hostname=address.host)
        return sock

    def _start_and_dial(self) -> socket.socket:
        with self._starting:
            with contextlib.suppress(OSError):
                return self._dial()
            from squall.sdk.client.launch import spawn_server

            spawn_server(self.address)
            output.notice("started the local server (squall server stop ends it)")
            return self._dial()

    def acquire(self) -> Connection:
        """A connection for one call; give it back with `release`, or `close` it after any failure."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return self.connect()
        if self.embedded and readable(connection.sock.fileno(), 0):  # nothing is under way on it: this is its end
            connection.close()
            self._drop_idle()
            return self.connect()
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back that has nothing under way."""
        if len(self._idle) < 32 and not self._closed:  # as many as a program has threads that call at once; more are opened again when needed
            self._idle.append(connection)
        else:
            connection.close()

    def reconnect(self, since: float | None = None) -> Connection:
        """A new connection after one broke; keeps trying for RECONNECT_S and says so once. A server that was stopped is not started from here.

        Raises:
            ConnectionError: the server did not come back.
        """
        from squall.sdk.client.last_start import stopped_on_purpose

        began = time.monotonic() if since is None else since
        self._drop_idle()
        pause = 0.02
        while True:
            try:
                return self.connect(start=not (self.embedded and stopped_on_purpose(data_directory())))
            except (AuthError, VersionError):
                raise
            except ConnectionError:
                if time.monotonic() - began > RECONNECT_S:
                    raise
            time.sleep(pause)
            pause = min(1.0, pause * 2)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    # requests

    def request(self, command: Command, on_event: OnEvent | None = None) -> Answer:
        """Send a command and wait for its answer; events of it go to `on_event`.

        Raises:
            Error: the server's refusal, as its class.
            ConnectionError: no server, or it went away; whether the command took effect is then unknown.
        """
        for attempt in (1, 2):
            connection = self.acquire()
            try:
                return request_on(connection, command, on_event, release=self.release)
            except BROKEN as error:
                connection.close()
                self._drop_idle()
                if attempt == 2:  # the first failure may be an idle connection to a server that has restarted since
                    raise ConnectionError(f"the server went away: {error}") from error
            except BaseException as error:
                if type(error) not in BY_CODE.values():  # an answer leaves the connection usable, anything else does not
                    connection.close()
                raise
        raise AssertionError("unreachable")

    async def request_aio(self, command: Command, on_event: OnEvent | None = None) -> Answer:
        """`request` for event loops."""
        import asyncio

        return await asyncio.to_thread(self.request, command, on_event)

    def loop_connection(self) -> Any:
        """This event loop's connection for calls (`sdk.aio.LoopConnection`)."""
        import asyncio

        self._check_open()
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None or found.closed:
            from squall.sdk.function.async_calls import LoopConnection

            found = self._loops[loop] = LoopConnection(self)
        return found

    def close_idle(self) -> None:
        """Close idle connections. The client stays usable."""
        self._drop_idle()


def _why(error: OSError) -> str:
    """Why a connection could not be made, in words."""
    if getattr(error, "reason", "") in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):  # of ssl.SSLError
        return "what listens there speaks no TLS; is it an address for browsers (--web), and not one for clients (--listen)?"
    return error.strerror or str(error)


def request_on(connection: Connection, command: Command, on_event: OnEvent | None = None, release: Callable[[Connection], None] = lambda _: None) -> Answer:
    """Send a command on this connection and wait for its answer; `release` gets the connection after an answer of either kind."""
    connection.send(Request(1, command))
    while True:
        message = connection.receive()
        if isinstance(message, Reply):
            release(connection)
            return message.answer
        if isinstance(message, Fault):
            release(connection)
            raise rebuild(message.code, message.message, message.details)
        if on_event is not None:
            on_event(message)


def check_server(what: str, own: Client | None, asked: Client | None) -> None:
    """
    Raises:
        InvalidError: `what`, which is of the server of `own`, is to be used on another (of `asked`; None: the default one).
    """
    if own is not None and own.address != (here := asked or Client.default()).address:
        raise InvalidError(f"client= of {what} is of the server at {own.address}, and it is used on the one at {here.address}: an app can't use both")


def ensure_server(options: Sequence[str] = ()) -> bool:
    """Start the embedded server, with these options of its command line, unless one answers. Whether it had to be started. They are remembered.

    Raises:
        ConnectionError: it can't be started, or SQUALL_SERVER_URL names one that does not answer.
    """
    client = Client.default()
    try:
        client.connect(start=False).close()
        return False
    except ConnectionError:
        if client.embedded:
            from squall.sdk.client.launch import spawn_server

            spawn_server(client.address, options)
        client.connect().close()
        return True


def warn_if_in_loop(name: str) -> None:
    """Warn when a blocking call is made where it stops an event loop."""
    loops = sys.modules.get("asyncio.events")
    if loops is not None and loops._get_running_loop() is not None:
        import warnings

        from squall.model.errors import AsyncUsageWarning

        warnings.warn(
            f"{name}(...) blocks the running event loop; write  await {name}.aio(...)  (or  async for ... in {name}.aio(...)).",
            AsyncUsageWarning,
            stacklevel=_users_level(),
        )


def _users_level() -> int:
    """Of `warnings.warn` in the function that asks: the frame of the first caller that is not Squall's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("squall."):
        level, frame = level + 1, frame.f_back
    return level
