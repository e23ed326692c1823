"""The floor: the least that a call through a router to another process takes. Three processes, unix sockets, framed msgpack, and nothing else.

No isolation, no scaling, no store, one client and one runner. Whatever Squall takes beyond this is what its features cost.
"""

import asyncio
import itertools
import multiprocessing
import os
import pickle
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import uvloop

from benchmarks.contestants.serve import serve


class Work(msgspec.Struct, array_like=True, tag=1):
    number: int
    function: str
    data: bytes


class Value(msgspec.Struct, array_like=True, tag=2):
    number: int
    ok: bool
    data: bytes


Message = Work | Value
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Message).decode


def framed(message: Message) -> bytes:
    body = encode(message)
    return len(body).to_bytes(4, "big") + body


class Frames(asyncio.Protocol):
    """Cuts what arrives into messages; what goes to one peer because of one read leaves in one write, as in Squall."""

    def __init__(self, handle: Callable[["Frames", Message], "Frames"]) -> None:
        self.handle = handle
        self.rest = b""
        self.leaving: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance.

    def data_received(self, data: bytes) -> None:
        data, at = self.rest + data, 0
        peers = set[Frames]()
        while len(data) - at >= 4:
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if len(data) < end:
                break
            peers.add(self.handle(self, decode(data[at + 4 : end])))
            at = end
        self.rest = data[at:]
        for peer in peers:
            peer.transport.write(b"".join(peer.leaving))
            peer.leaving.clear()


async def route(folder: str) -> None:
    """The middle process: gives each input a number of its own, passes it on, and the value back to where it came from."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    numbers, waiting = itertools.count(1), dict[int, tuple[Frames, int]]()
    runners: list[Frames] = []

    def from_client(client: Frames, message: Message) -> Frames:
        number = next(numbers)
        waiting[number] = client, message.number
        message.number = number
        runners[0].leaving.append(framed(message))
        return runners[0]

    def from_runner(_: Frames, message: Message) -> Frames:
        client, message.number = waiting.pop(message.number)
        client.leaving.append(framed(message))
        return client

    def new_runner() -> Frames:
        runners.append(Frames(from_runner))
        ready.set()
        return runners[-1]

    await loop.create_unix_server(new_runner, f"{folder}/runner")
    await ready.wait()
    await loop.create_unix_server(lambda: Frames(from_client), f"{folder}/client")
    await asyncio.Event().wait()


def run_router(folder: str) -> None:
    uvloop.run(route(folder))


def connect(path: str) -> Any:
    """A buffered reader and the socket itself, once somebody listens at `path`."""
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            continue
        return sock.makefile("rb", 1 << 20), sock


def run_runner(folder: str) -> None:
    reader, sock = connect(f"{folder}/runner")
    while head := reader.read(4):
        message = decode(reader.read(int.from_bytes(head, "big")))
        (number,), _ = pickle.loads(message.data)
        sock.sendall(framed(Value(message.number, True, pickle.dumps(number * number))))


def main() -> None:
    spawning = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        helpers = [spawning.Process(target=target, args=(folder,), daemon=True) for target in (run_router, run_runner)]
        for helper in helpers:
            helper.start()
        reader, sock = connect(f"{folder}/client")

        def send(number: int) -> None:
            sock.sendall(framed(Work(number, "square", pickle.dumps(((number,), {})))))

        def receive() -> int:
            message = decode(reader.read(int.from_bytes(reader.read(4), "big")))
            result: int = pickle.loads(message.data)
            return result

        def call(number: int) -> int:
            send(number)
            return receive()

        def many(n: int) -> Iterator[int]:
            sender = threading.Thread(target=lambda: deque(map(send, range(n)), maxlen=0))
            sender.start()
            for _ in range(n):
                yield receive()
            sender.join()

        try:
            serve(call, many, where=lambda: {"pid": helpers[1].pid, "client": os.getpid()})
        finally:
            for helper in helpers:
                helper.terminate()
                helper.join()


if __name__ == "__main__":
    main()
