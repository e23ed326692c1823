"""`squall serve`: an app that lives with the terminal and takes up its files when they are saved."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from squall.cli.ui.display import Display
from squall.model.errors import InvalidError, NotFoundError
from squall.model.ids import APP, make_id
from squall.wire.messages import Attach, ContainerProgress, Follow, LogChunk, Request, StopApp

#: Editors write a file in several steps; what changes within this is one change.
SETTLE_MS = 50
#: Files are looked at this often even if the watcher says nothing: it starts anew with each version, and may miss what was saved meanwhile.
LOOK_MS = 250
#: Set for the process that takes up a version: the descriptor for the names of its files, and the app's id.
CHILD_VARIABLE = "SQUALL_SERVE_CHILD"
_STOP_S = 40.0


def main(
    target: str, *, as_module: bool, environment: str | None, verbose: bool, timeout_s: float | None = None, name: str | None = None, timestamps: bool = False
) -> int:
    """Serve until Ctrl-C, or for `timeout_s`; the exit status.

    Every version is taken up by a process of its own, which imports the program anew and ends. When that fails, the version before goes on.
    """
    if child := os.environ.pop(CHILD_VARIABLE, ""):
        descriptor, _, app = child.partition(" ")
        return _take_up(target, int(descriptor), app, as_module=as_module, environment=environment, verbose=verbose, name=name)
    return _Supervisor(Display(verbose=verbose, timestamps=timestamps)).run(timeout_s)


class _Supervisor:
    """Holds the app while the terminal lives, shows what it prints, and has each change taken up."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._app = make_id(APP, time.time_ns() // 1_000_000, os.urandom(10))
        self._command = [sys.executable, "-m", "squall.cli.main", *sys.argv[1:]]
        self._files: set[Path] = set()
        #: What the files were like when the last attempt to take them up began.
        self._seen: dict[Path, tuple[int, int] | None] = {}
        self._held: Any = None
        self._reader: threading.Thread | None = None

    def run(self, timeout_s: float | None = None) -> int:
        stop = threading.Event()
        if timeout_s is not None:
            timer = threading.Timer(timeout_s, stop.set)
            timer.daemon = True
            timer.start()
        for number in (signal.SIGTERM, signal.SIGHUP):  # also of a terminal that is closed
            signal.signal(number, lambda *_: stop.set())
        # Ctrl-C is ours alone; the processes that take up versions have sessions of their own.
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        try:
            self._start()
            while not stop.is_set():
                folders = sorted({Path.cwd(), *(path.parent for path in self._files)})
                for named in _looks(folders, stop):
                    if wanted := self._changed(named):
                        self._display.line(f"• {', '.join(sorted(path.name for path in wanted))} changed")
                        self._start()
                        break  # perhaps it is made of other files now
            return 0
        finally:
            self._end()

    def _changed(self, named: Iterable[Path]) -> set[Path]:
        """Files of the app that are not as they were when they were taken up, named by the watcher or missed; and Python files beside them that it named."""
        folders = {file.parent for file in self._files} or {Path.cwd()}
        beside = {path for path in named if path.suffix == ".py" and path.parent in folders and self._seen.get(path) != _look(path)}
        return beside | {path for path, was in self._seen.items() if _look(path) != was}

    def _start(self) -> bool:
        """Have the program taken up as it is now. Whether it came up."""
        before = {path: _look(path) for path in self._files} | self._beside()
        reading, writing = os.pipe()
        with subprocess.Popen(
            self._command, env={**os.environ, CHILD_VARIABLE: f"{writing} {self._app}"}, pass_fds=[writing], start_new_session=True, stdin=subprocess.DEVNULL
        ) as process:
            os.close(writing)
            with os.fdopen(reading) as lines:
                files = {Path(line) for line in lines.read().split("\n") if line}
        self._files |= files
        self._seen = {path: before[path] if path in before else _look(path) for path in self._files} | before
        if process.returncode == 0:
            self._files = files
            if self._held is None:
                self._hold()
            return True
        self._display.line("✗ the version before goes on" if self._held is not None else "• fix it and save: it is tried again then; Ctrl-C leaves")
        return False

    def _beside(self) -> dict[Path, tuple[int, int] | None]:
        folders = {file.parent for file in self._files} or {Path.cwd()}
        return {path: _look(path) for folder in folders for path in folder.glob("*.py")}

    def _hold(self) -> None:
        """Keep the app, and show its output, on a connection of our own."""
        from squall.sdk.client.client import Client

        self._held = Client.default().connect(start=False)
        self._held.send(Request(1, Attach(self._app)))
        self._held.send(Request(2, Follow(app=self._app, replay=True)))
        self._reader = threading.Thread(target=self._show, name="squall serve output", daemon=True)
        self._reader.start()

    def _show(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                message = self._held.receive()
                if isinstance(message, LogChunk | ContainerProgress):
                    self._display.event(message)

    def _end(self) -> None:
        if self._held is not None:
            from squall.cli.ui.existing_server import ask

            with contextlib.suppress(Exception):
                ask(StopApp(self._app))
            self._held.close()
        self._display.line("✓ no longer served")
        self._display.close()


def _looks(folders: Sequence[Path], stop: threading.Event) -> Iterator[set[Path]]:
    """Files that may have changed, each time that something did and every LOOK_MS anyhow, until `stop` is set."""
    try:
        from watchfiles import watch
    except ImportError:  # it comes with the server's packages: without them, every Python file of the folders is looked at
        while not stop.wait(LOOK_MS / 1000):
            yield {path for folder in folders for path in folder.glob("*.py")}
        return
    for changes in watch(*folders, debounce=SETTLE_MS, step=10, rust_timeout=LOOK_MS, yield_on_timeout=True, stop_event=stop, recursive=False):
        yield {Path(name) for _, name in changes}


def _look(path: Path) -> tuple[int, int] | None:
    """What tells a file's versions apart; None: it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def _take_up(target: str, descriptor: int, app_id: str, *, as_module: bool, environment: str | None, verbose: bool, name: str | None) -> int:
    """Import the program and make it the served version. Writes the names of its files, whether it works or not, and ends."""
    from squall.cli.program.loader import load_app
    from squall.cli.ui.errors import is_users, paragraph, users_traceback
    from squall.sdk.app.deploy import Deployment
    from squall.sdk.output.output import use_sink

    display = Display(verbose=verbose)
    began = time.monotonic()
    places: dict[str, Path] = {}
    files: set[Path] = set() if as_module else {Path(target.partition("::")[0]).absolute()}
    try:
        app = load_app(target, as_module=as_module)
        if name is not None:
            app._name = name
        elif app.name is None and not as_module:
            app._name = Path(target.partition("::")[0]).stem
        with use_sink(display):
            serving = Deployment(app, environment=environment)
            places = serving.places
            deployed = serving.apply(serve=app_id, on_event=display.event)
        display.line(f"✓ {app.name} is served ({time.monotonic() - began:.2f} s)")
        if deployed.version <= 1:
            for tag, url in deployed.urls.items():
                display.line(f"  {tag}  {url}")
        return 0
    except BaseException as error:
        display.close()
        if isinstance(error, NotFoundError | InvalidError) or not is_users(error):
            display.error(f"✗ {paragraph(error, places, log=False)}")
        else:
            display.error(users_traceback(error, places).rstrip())
        return 1
    finally:
        display.close()
        files |= {path for path in places.values() if path.suffix == ".py" or path.parent in {file.parent for file in files}}
        with os.fdopen(descriptor, "w") as lines:
            lines.write("\n".join(str(path) for path in sorted(files)))
