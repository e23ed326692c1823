"""Functions for tests/e2e that say to their agent whatever they are told to say."""

import gc
import os
import socket

import squall
from squall.exception import Error
from squall.wire.framing import Unpacker, pack
from squall.wire.messages import PROTOCOL_VERSION, Fault, Hello, ToClient

app = squall.App("fuzzed")
bystander = squall.App("fuzzed-bystander")
#: Seconds without an answer after which there is none.
QUIET_S = 0.05


@app.function(retries=0, max_containers=2)
def as_client(conversations: list[list[bytes]]) -> list[tuple[int, str]]:
    """Hold each conversation on a connection of its own. Gives the number of a conversation and what the server said where it failed itself."""
    failed: list[tuple[int, str]] = []
    for number, frames in enumerate(conversations):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(QUIET_S)
            sock.connect(os.environ["SQUALL_CONTAINER_SOCKET"])
            answers: Unpacker[ToClient] = Unpacker(ToClient)
            try:
                sock.sendall(pack(Hello(PROTOCOL_VERSION, "client", "fuzzed")))
                for frame in frames:
                    sock.sendall(frame)
                while data := sock.recv(1 << 18):
                    failed += [(number, answer.message) for answer in answers.feed(data) if isinstance(answer, Fault) and answer.code == "internal"]
            except (OSError, Error):
                continue
    return failed


@app.function(retries=0, timeout=2)
def as_runner(frames: list[bytes]) -> None:
    """Write them where the runner writes."""
    channel = next(one for one in gc.get_objects() if type(one).__name__ == "Channel")
    for frame in frames:
        channel._write(frame)


@bystander.function()
def double(number: int) -> int:
    return 2 * number
