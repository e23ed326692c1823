"""The whole way: a browser opens deployed pages by their addresses, and websocket frames come out of the ingress as they went in."""

import asyncio
import hashlib
import os
import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import Event
from websockets.uri import parse_uri

from support.browser import browser

from .conftest import PROGRAMS, SQUALL

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def urls(data: Path) -> Iterator[dict[str, str]]:
    env = {**os.environ, "SQUALL_DATA_DIR": str(data), "NO_COLOR": "1"}
    done = subprocess.run([SQUALL, "deploy", str(PROGRAMS / "browsed.py")], env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    yield dict(re.findall(r"^  (\S+) +(http://\S+)$", done.stderr, re.MULTILINE))
    subprocess.run([SQUALL, "app", "stop", "browsed"], env=env, capture_output=True, timeout=60, check=True)


async def test_a_browser_opens_pages_streams_and_websockets(urls: dict[str, str]) -> None:
    by_path = f"http://127.0.0.1:{urlsplit(urls['pages']).port}/web/{urlsplit(urls['pages']).netloc.partition('.')[0]}"
    async with browser() as page:
        for base in (urls["pages"], by_path):
            assert (await page.open(f"{base}/", title="done")).split() == ["7", "✓", "4"]
        assert (await page.open(f"{urls['pages']}/streamed.html", title="done")).split() == ["0", "1", "2", "3"]
        for base in (urls["pages"], by_path):
            talked = await page.open(f"{base}/talk.html", title="done")
            assert talked.splitlines() == ["whisper HELLO ✓", str(3 << 20), "3456 enough true"]


class Talk:
    """A websocket whose frames are ours to make and to see."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: ClientProtocol) -> None:
        self.reader, self.writer, self.protocol = reader, writer, protocol
        self._events: list[Event] = []

    async def send(self, *frames: Frame) -> None:
        for frame in frames:
            self.writer.write(frame.serialize(mask=True))
        await self.writer.drain()

    async def next(self) -> Event | None:
        """The next frame as it comes; None at the end of the connection."""
        while not self._events:
            data = await asyncio.wait_for(self.reader.read(1 << 16), 30)
            if not data:
                return None
            self.protocol.receive_data(data)
            self._events += self.protocol.events_received()
        return self._events.pop(0)

    async def frame(self) -> Frame:
        event = await self.next()
        assert isinstance(event, Frame), event
        return event


@asynccontextmanager
async def talking(url: str) -> AsyncIterator[Talk]:
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection("127.0.0.1", parts.port)
    protocol = ClientProtocol(parse_uri(f"ws://{parts.netloc}/"), max_size=None)
    protocol.send_request(protocol.connect())
    talk = Talk(reader, writer, protocol)
    writer.write(b"".join(protocol.data_to_send()))
    try:
        answer = await talk.next()
        assert isinstance(answer, Response)
        assert answer.status_code == 101
        yield talk
    finally:
        writer.close()


def seen(frame: Frame) -> Frame:
    """What the server says of a frame that reached it like this one."""
    return Frame(Opcode.PING, f"{frame.opcode.name} {frame.fin} {len(frame.data)} {hashlib.sha256(frame.data).hexdigest()[:32]}".encode())


async def test_frames_reach_the_container_and_come_back_as_they_are(urls: dict[str, str]) -> None:
    pieces = [
        Frame(Opcode.TEXT, "¼ of ".encode()[:1], fin=False), Frame(Opcode.CONT, "¼ of ".encode()[1:], fin=False), Frame(Opcode.CONT, b"", fin=False),
        Frame(Opcode.CONT, b"a message", fin=True),
    ]  # fmt: skip
    sizes = [Frame(Opcode.BINARY, os.urandom(size)) for size in (0, 125, 126, 65_535, 65_536, 24 << 20)]
    large = [Frame(Opcode.BINARY, os.urandom(3 << 20), fin=False), Frame(Opcode.CONT, os.urandom(5 << 20), fin=True)]
    async with talking(urls["frames"]) as talk:
        for frame in (*pieces, *sizes, *large):
            sending = asyncio.create_task(talk.send(frame))
            assert await talk.frame() == seen(frame)
            assert await talk.frame() == frame
            await sending
        # A ping between two pieces of a message overtakes nothing and is no piece of it.
        await talk.send(
            Frame(Opcode.TEXT, b"one ", fin=False), Frame(Opcode.PING, b"are you there"), Frame(Opcode.CONT, b"two"), Frame(Opcode.PONG, b"unasked")
        )
        answers = [await talk.frame() for _ in range(5)]
        assert Frame(Opcode.PONG, b"are you there") in answers
        assert [answer for answer in answers if answer.opcode not in (Opcode.PONG, Opcode.PING)] == [
            Frame(Opcode.TEXT, b"one ", fin=False),
            Frame(Opcode.CONT, b"two"),
        ]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "leaving"), (1011, "é" * 61), (3000, "registered"), (4999, "private")])
async def test_close_codes_come_back(urls: dict[str, str], code: int, reason: str) -> None:
    async with talking(urls["frames"]) as talk:
        close = Frame(Opcode.CLOSE, Close(code, reason).serialize())
        await talk.send(close)
        assert await talk.frame() == close
        assert await talk.next() is None


async def test_a_close_without_a_code_and_one_half_of_a_connection(urls: dict[str, str]) -> None:
    async with talking(urls["frames"]) as talk:
        await talk.send(Frame(Opcode.CLOSE, b""))
        assert await talk.frame() == Frame(Opcode.CLOSE, b"")
        assert await talk.next() is None
    async with talking(urls["frames"]) as talk:
        talk.writer.write_eof()
        assert await talk.frame() == Frame(Opcode.TEXT, b"you said no more, and I go on")
        assert await talk.frame() == Frame(Opcode.CLOSE, Close(4001, "half closed").serialize())
        assert await talk.next() is None
