"""Functions for tests/e2e that use their agent's socket, and the memory that they share with it, as no runner would."""

import gc
import os
import pickle
import socket
import struct
import time

import squall
from squall.wire.blocking import BlockingConnection
from squall.wire.framing import pack
from squall.wire.messages import ITEM, PROTOCOL_VERSION, Hello, Ready, Reply, Request, Result, ToClient, Welcome
from squall.wire.state import CREATE, DICT, ENSURE, VOLUME, DictRead, DictWrite, DropObject, OpenObject

app = squall.App("hostile")
#: An item like the others, pickled.
ONE = pickle.dumps(1, 5)
kept: list[socket.socket] = []


def connect() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(os.environ["SQUALL_CONTAINER_SOCKET"])
    return sock


def client() -> BlockingConnection[ToClient]:
    connection: BlockingConnection[ToClient] = BlockingConnection(connect(), ToClient)
    connection.send(Hello(PROTOCOL_VERSION, "client", "hostile"))
    assert isinstance(connection.receive(10), Welcome)
    return connection


def channel() -> object:
    """The runner's own connection, which no code of a user's is meant to have."""
    return next(one for one in gc.get_objects() if type(one).__name__ == "Channel")


@app.function()
def spoil_what_is_left() -> None:
    """What the agent reads when the container has died is no message."""
    struct.pack_into("<QQ", channel()._scratch, 0, 2**64 - 1, 2**64 - 1)  # type: ignore[attr-defined]
    channel()._scratch[16:80] = b"\xff" * 64  # type: ignore[attr-defined]
    os._exit(7)


@app.function()
def come_and_go(times: int) -> int:
    for _ in range(times):
        connection = client()
        connection.close()
    return times


@app.function()
def connect_often(role: str, times: int, most: int) -> int:
    """Connections that the agent keeps; it has a while to close those that are more than `most`."""
    alive = []
    for _ in range(times):
        try:
            sock = connect()
            sock.sendall(pack(Hello(PROTOCOL_VERSION, role, "hostile")))
            alive.append(sock)
        except OSError:
            continue
    until = time.monotonic() + 10
    while len(alive := [sock for sock in alive if is_open(sock)]) > most and time.monotonic() < until:
        time.sleep(0.02)
    kept.extend(alive)
    return len(alive)


def is_open(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(1 << 16):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@app.function()
def ask_and_not_read(name: str, times: int) -> int:
    """How many questions the agent took without an answer read."""
    connection = client()
    connection.send(Request(1, OpenObject(DICT, name)))
    found = connection.receive(10).answer.id  # type: ignore[union-attr]
    connection.send(Request(1, DictWrite(found, ((b"large", bytes(8 << 20)),))))
    assert isinstance(connection.receive(10), Reply)
    connection.send(Request(1, DictRead(found, b"large")))
    assert len(connection.receive(10).answer.value) == 8 << 20  # type: ignore[union-attr]
    connection.sock.settimeout(1.0)
    for number in range(times):
        try:
            connection.send(Request(number + 2, DictRead(found, b"large")))
        except TimeoutError:
            return number
    time.sleep(1.5)  # for as long it asks and does not read
    return times


@app.function()
def begin_frames(count: int, size: int) -> int:
    """Frames that never end; how many of them the agent took."""
    whole = 0
    for _ in range(count):
        sock = connect()
        try:
            sock.sendall(pack(Hello(PROTOCOL_VERSION, "client", "hostile")) + (1 << 29).to_bytes(4, "big"))
            for _ in range(size >> 20):
                sock.sendall(bytes(1 << 20))
            kept.append(sock)
            whole += 1
        except OSError:
            continue
    return whole


@app.function()
def be_ready_again(times: int) -> int:
    for _ in range(times):
        channel().send(Ready(1.0, 1.0))  # type: ignore[attr-defined]
    return times


@app.function()
def more_than_asked_for():  # type: ignore[no-untyped-def]
    yield 1
    runner = channel()
    for _ in range(100_000):
        runner.send(Result(runner.token, ITEM, ONE))  # type: ignore[attr-defined]
    yield 2


@app.function()
def reach_for(volume: str, ephemeral: str) -> list[str]:
    """Objects of others: the codes of the refusals."""
    connection = client()
    said = []
    for number, command in enumerate(
        [
            OpenObject(VOLUME, volume, mode=CREATE),
            OpenObject(VOLUME, volume, mode=ENSURE),
            DropObject(DICT, id=ephemeral),
        ]
    ):
        connection.send(Request(number + 1, command))
        said.append(getattr(connection.receive(10), "code", "done"))
    return said
