"""A headless Chromium, driven through its DevTools protocol (chromedevtools.github.io/devtools-protocol)."""

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

COMMAND = "chromium-headless-shell"
#: As root there is no sandbox. The rest keeps it from talking to anybody but the page's server.
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-proxy-server", "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0")


class Page:
    """A tab of the browser."""

    def __init__(self, talk: ClientConnection) -> None:
        self._talk, self._numbers, self._session = talk, itertools.count(1), ""

    async def open(self, url: str, *, title: str, timeout_s: float = 30.0) -> str:
        """The text of the page at `url`, when its script has given it this title.

        Raises:
            TimeoutError: with the text so far.
        """
        if not self._session:
            target = await self._ask("Target.createTarget", url="about:blank")
            self._session = (await self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True))["sessionId"]
        await self._ask("Page.navigate", url=url)
        there = f"location.href === {json.dumps(url)} && document.title === {json.dumps(title)}"
        wait = (
            f"new Promise(done => {{ const look = () => {there} ? done(true) : setTimeout(look, 10);"
            f" look(); setTimeout(() => done(false), {timeout_s * 1000:.0f}) }})"
        )
        done = await self._evaluate(wait)
        text = str(await self._evaluate("document.body.innerText"))
        if not done:
            raise TimeoutError(f"{url} is not {title!r} after {timeout_s} s; its text is {text!r}")
        return text

    async def _evaluate(self, expression: str) -> Any:
        while True:
            try:
                answer = await self._ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
            except RuntimeError as error:
                if "context" not in str(error) and "navigated" not in str(error):
                    raise
                continue  # the page before went away under the question
            return answer["result"].get("value")

    async def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._talk.send(json.dumps({"id": number, "method": method, "params": params, **({"sessionId": self._session} if self._session else {})}))
        while True:
            answer = json.loads(await self._talk.recv())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """A browser of its own, without any history, gone at the end."""
    profile = tempfile.mkdtemp(prefix="squall-browser-")
    process = await asyncio.create_subprocess_exec(COMMAND, *FLAGS, f"--user-data-dir={profile}", stderr=asyncio.subprocess.PIPE, start_new_session=True)
    try:
        assert process.stderr is not None
        said = b""
        while not (found := re.search(rb"DevTools listening on (\S+)", said)):
            line = await asyncio.wait_for(process.stderr.readline(), 30)
            assert line, f"the browser ended: {said.decode()}"
            said += line
        async with connect(found[1].decode(), max_size=None, proxy=None) as talk:
            yield Page(talk)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the command is a script, and the browser many processes
        await process.communicate()
        shutil.rmtree(profile, ignore_errors=True)
