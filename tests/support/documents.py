"""Runs a document as its reader would: files are written, commands are typed into one shell, and what they print is compared.

A Python block begins with the name of its file. In a console block a line with ``$`` is a command, and the lines below it are what it prints, where ``…``
stands for anything; a line of ``…`` alone stands for any lines. `squall serve` goes on while the rest of the document is run.
"""

import os
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.waiting import BOUND_S

#: A command that takes longer is given up: some build an image.
COMMAND_S = 240.0


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that the reader does, `line` being where it stands."""

    line: int
    kind: str
    #: The file's name, or the command.
    what: str
    #: Its content, or what the command prints.
    text: str


def steps(text: str) -> list[Step]:
    """In the document's order.

    Raises:
        ValueError: a block that the reader could not use.
    """
    found = []
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line, language, body = text[: block.start()].count("\n") + 2, block[1], block[2]
        if language == "python":
            name = re.match(r"# (\S+\.py)\n", body)
            if name is None:
                raise ValueError(f"line {line}: a Python block begins with the name of its file")
            found.append(Step(line, "file", name[1], body))
        elif language == "console":
            for part in re.finditer(r"^\$ (.*(?:\\\n.*)*)\n((?:(?!\$ ).*\n)*)", body, re.MULTILINE):
                found.append(Step(line + body[: part.start()].count("\n"), "command", part[1], part[2]))
        else:
            raise ValueError(f"line {line}: a block in {language or 'no language'!r} is neither Python nor a console")
    return found


class Reader:
    """Follows documents in a folder.

    Args:
        swap: what is written in documents, and what that is here (the port of the server).
    """

    def __init__(self, folder: Path, env: Mapping[str, str], swap: Mapping[str, str]) -> None:
        self._folder, self._swap, self._env = folder, swap, dict(env)
        self._shell = subprocess.Popen(
            ["bash"], cwd=folder, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )
        self._serving: list[subprocess.Popen[str]] = []

    def follow(self, text: str) -> int:
        """Do all of it; the number of commands.

        Raises:
            AssertionError: a command fails, or prints something else.
        """
        commands = 0
        for step in steps(text):
            if step.kind == "file":
                (self._folder / step.what).write_text(self._here(step.text))
            elif step.what.startswith("squall serve "):
                self._serve(step)
            else:
                commands += 1
                status, printed = self._type(self._here(step.what))
                for written, here in self._swap.items():
                    printed = printed.replace(here, written)
                # A document shows an error by its text; a command that shows none has to work.
                assert status == 0 or "✗" in step.text, f"line {step.line}: {step.what}\nstatus {status}\n{printed}"
                assert agrees(step.text, printed), f"line {step.line}: {step.what}\nprints\n{printed}\ninstead of\n{step.text}"
        return commands

    def _here(self, text: str) -> str:
        for written, here in self._swap.items():
            text = text.replace(written, here)
        return text

    def _type(self, command: str) -> tuple[int, str]:
        mark = f"end of {secrets.token_hex(8)}"
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        # What it reads is not the commands behind it.
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s %s\\n' '{mark}' $?\n")
        printed = []
        watch = threading.Timer(COMMAND_S, self._shell.kill)
        watch.start()
        try:
            for line in self._shell.stdout:
                if line.startswith(mark):
                    return int(line.removeprefix(mark)), "".join(printed)
                printed.append(line)
        finally:
            watch.cancel()
        raise AssertionError(f"the shell ended at {command}, or this took {COMMAND_S} s: {''.join(printed)}")

    def _serve(self, step: Step) -> None:
        log = self._folder / "serve.log"
        with log.open("w") as file:
            self._serving.append(subprocess.Popen(step.what.split(), cwd=self._folder, env=self._env, stdout=file, stderr=file, text=True))
        deadline = time.monotonic() + BOUND_S
        while not agrees(step.text, said := self._there(log.read_text())):
            assert time.monotonic() < deadline, f"line {step.line}: {step.what} says\n{said}"
            time.sleep(0.02)

    def _there(self, text: str) -> str:
        for written, here in self._swap.items():
            text = text.replace(here, written)
        return text

    def close(self) -> None:
        for process in self._serving:
            process.send_signal(signal.SIGINT)
            process.wait(30)
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.close()
        self._shell.wait(30)
        self._shell.stdout.close()


def agrees(wanted: str, printed: str) -> bool:
    """Whether it is printed, with what ``…`` stands for. Space at ends of lines and in its amount does not count; nothing wanted agrees with everything."""
    if not wanted.strip():
        return True
    pattern = r"\s+".join(".*?".join(re.escape(part) for part in word.split("…")) for word in wanted.split())
    return re.fullmatch(rf"\s*{pattern}\s*", printed, re.DOTALL) is not None


def environment(data: Path, squall: Path) -> dict[str, str]:
    """Of a reader whose `squall` and `python` are these."""
    return {**os.environ, "SQUALL_DATA_DIR": str(data), "NO_COLOR": "1", "COLUMNS": "200", "PATH": f"{squall.parent}:{os.environ['PATH']}"}
