"""Running a program of this machine for a build, its output line by line; it ends with the server, and with whoever waits for it."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path


async def run(argv: tuple[str, ...], line: Callable[[str], None], env: Mapping[str, str], *, stdin: Path | None = None, cwd: Path | None = None) -> int:
    """Its exit code, negative for a signal. Standard output and error go to `line`. Killed when cancelled.

    Raises:
        FileNotFoundError: there is no such program.
    """
    source = stdin.open("rb") if stdin is not None else None
    try:
        process = await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "KILL", *argv, env=env, cwd=cwd, stdin=source if source is not None else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=1 << 22,
        )  # fmt: skip
    finally:
        if source is not None:
            source.close()
    assert process.stdout is not None
    try:
        async for raw in process.stdout:
            line(raw.decode(errors="replace").rstrip())
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
