"""`squall run`: start the app of a program, run its entrypoint here or one of its functions there, and stop it.

Reads its command line by itself, without typer, so that it starts in a third of the time.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from squall.cli.ui.display import Display
from squall.model.errors import ConflictError
from squall.sdk.output.line_streams import own_streams

INTERRUPTED, WRONG_USAGE = 130, 2

#: The request has long been sent by then; its answer comes only when the containers are gone.
_LEAVING_S = 0.3

USAGE = """\
Usage: squall run [OPTIONS] FILE[::NAME] [FLAGS OF THE TARGET]
       squall run [OPTIONS] -m MODULE[::NAME] [FLAGS OF THE TARGET]

  FILE may be - for a program on stdin.

  Start the app of a program and run its local entrypoint here, or one of its functions in a container.
  Squall's options come before the target; what follows it belongs to the target:

    squall run hello.py --n 200       squall run hello.py::f --i 3       squall run hello.py --help

Options:
  -m, --module   The target is a module, as for python -m.
  -d, --detach   What was spawned goes on after this program ended.
  -q, --quiet    Say nothing about progress; the program's own output stays.
  -v, --verbose  Show build logs and container states.
  --timestamps   The time before each line of containers.
  -e, --env NAME The environment to run in.
  -n, --name NAME  What the app is called while it runs.
  -w, --write-result FILE  Write what the target returns, a str or bytes, into a file, and do not print it.
  --no-modal-alias  Leave the name modal to the package of that name; otherwise it means Squall here and in containers.
  -h, --help     Show this.
"""


class Options:
    """What stands before the target on the command line."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.module = self.detach = self.quiet = self.verbose = self.no_modal_alias = self.timestamps = False
        self.environment: str | None = None
        self.name: str | None = None
        self.result: str | None = None
        words = list(argv)
        valued = {"-e": "environment", "--env": "environment", "-n": "name", "--name": "name", "-w": "result", "--write-result": "result"}
        switches = {
            "-m": "module",
            "--module": "module",
            "-d": "detach",
            "--detach": "detach",
            "-q": "quiet",
            "--quiet": "quiet",
            "-v": "verbose",
            "--verbose": "verbose",
            "--no-modal-alias": "no_modal_alias",
            "--timestamps": "timestamps",
        }
        while words and words[0].startswith("-") and words[0] != "-" and not words[0].startswith("-::"):
            word, _, value = words.pop(0).partition("=")
            if word in ("-h", "--help"):
                sys.stdout.write(USAGE)
                raise SystemExit(0)
            if word in ("-i", "--interactive"):
                _usage("a program can't talk to a container's terminal; squall shell FILE::FUNCTION opens a shell in one")
            if word in valued:
                if not value and not words:
                    _usage(f"{word} needs a value")
                setattr(self, valued[word], value or words.pop(0))
            elif word in switches and not value:
                setattr(self, switches[word], True)
            else:
                _usage(f"there is no option {word!r} (flags of the program come after its name)")
        if not words:
            _usage("say what to run: a file such as hello.py, or -m and a module")
        self.target, self.flags = words[0], words[1:]


def main(argv: Sequence[str]) -> int:
    """Run; the exit status. 0: done, 1: an error (shown), 2: wrong usage, 130: interrupted."""
    began = time.monotonic()
    options = Options(argv)
    own_streams()
    display = Display(quiet=options.quiet, verbose=options.verbose, timestamps=options.timestamps)
    run = _Run(options, display)
    with _signals(run.stop_at_once):
        try:
            run.go()
            run.finished(began)
            return 1 if run.unawaited else 0
        except SystemExit as leave:
            if hasattr(leave, "__squall_container__"):
                run.show(leave)  # a function's, not this program's: the status alone would not say where it came from
                return leave.code if isinstance(leave.code, int) and leave.code else 1
            return _exit_status(leave, display)
        except KeyboardInterrupt:
            display.line(f"✗ interrupted; {'what was spawned goes on' if options.detach else 'the app is stopped'}")
            return INTERRUPTED
        except BaseException as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                return 141  # as a shell counts a process that SIGPIPE ended
            run.show(error)
            return WRONG_USAGE if run.unclear(error) else 1
        finally:
            display.close()
            _leave_quietly()


class _Run:
    def __init__(self, options: Options, display: Display) -> None:
        self._options, self._display = options, display
        self._places: dict[str, Path] = {}
        self._calls: int | None = None
        self._app_id: str | None = None
        #: Of each call that was not awaited, a sentence.
        self.unawaited: list[str] = []

    def go(self) -> None:
        from squall.cli.program.flags import parse
        from squall.cli.program.loader import load
        from squall.cli.program.methods import Method
        from squall.cli.program.unawaited import noticed
        from squall.runner import alias
        from squall.sdk.app.entrypoint import LocalEntrypoint
        from squall.sdk.output.output import use_sink

        options = self._options
        if options.no_modal_alias:
            os.environ[alias.VARIABLE] = "0"
        if options.environment is not None:
            os.environ["SQUALL_ENVIRONMENT"] = options.environment  # for what the program looks up by itself: volumes, dicts
        sys.argv = [options.target, *options.flags]
        target = load(options.target, as_module=options.module)
        prog = f"squall run {'-m ' if options.module else ''}{options.target}"
        function: Any = target.runs
        if isinstance(function, Method):
            function, args, kwargs = function.parse(prog, options.flags)
        else:
            raw = function.raw if isinstance(function, LocalEntrypoint) else function.get_raw_f()
            args, kwargs = parse(prog, raw, options.flags)
        if target.app._running is not None:
            raise ConflictError(f"{options.target} starts its app at import already; put app.run() under  if __name__ == '__main__':")
        with noticed(self.unawaited), use_sink(self._display):
            running = target.app.run(name=options.name, detach=options.detach, environment_name=options.environment)
            self._places = running.places
            with running as app:
                self._places, self._app_id = running.places, None if options.detach else app.app_id
                if self._display.image_s or options.detach:
                    self._display.line(f"✓ app {app.description if app.name is None else app.name} is up  ({app.app_id})")
                if isinstance(function, LocalEntrypoint):
                    value = _call_here(function.raw, args, kwargs)
                else:
                    value = _call_there(function, args, kwargs, show=options.result is None)
                if options.result is not None:
                    _write(options.result, value)
            self._calls = running.calls

    def finished(self, began: float) -> None:
        self._display.close()
        for sentence in self.unawaited:
            self._display.error(f"✗ {sentence}")
        self._display.summary(began, self._calls)

    def stop_at_once(self) -> None:
        """Ask for the app's end on a connection of its own, without waiting longer than a moment: whoever presses Ctrl-C twice is in a hurry."""
        if self._app_id is None:
            return
        from threading import Thread

        from squall.cli.ui.existing_server import ask
        from squall.wire.messages import StopApp

        def stop(app: str) -> None:
            with contextlib.suppress(Exception):
                ask(StopApp(app))

        asking = Thread(target=stop, args=(self._app_id,), daemon=True)
        asking.start()
        asking.join(_LEAVING_S)

    @staticmethod
    def unclear(error: BaseException) -> bool:
        """Whether the command line was wrong, and not what it asked for."""
        loader = sys.modules.get("squall.cli.program.loader")  # where it is not loaded nothing was looked for
        return loader is not None and isinstance(error, loader.UnclearTarget)

    def show(self, error: BaseException) -> None:
        from squall.cli.ui.errors import is_users, paragraph, users_traceback

        self._display.close()
        sys.stdout.flush()
        if is_users(error) or os.environ.get("SQUALL_TRACEBACK") == "full":
            self._display.error(users_traceback(error, self._places).rstrip())
        else:
            self._display.error(f"✗ {paragraph(error, self._places, log=self._options.quiet)}")


def _call_here(raw: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    import inspect

    result = raw(*args, **kwargs)
    if inspect.iscoroutine(result):
        import asyncio

        return asyncio.run(result)
    return result


def _call_there(function: Any, args: list[Any], kwargs: dict[str, Any], *, show: bool) -> Any:
    """Call the function in a container and print what it gives: items one by one, a value unless it is None."""
    if function.is_generator:
        for item in function.remote_gen(*args, **kwargs):
            print(item, flush=True)
        return None
    value = function.remote(*args, **kwargs)
    if show and value is not None:
        print(value)
    return value


def _write(path: str, value: Any) -> None:
    """
    Raises:
        InvalidError: it is neither text nor bytes.
    """
    from squall.model.errors import InvalidError

    if not isinstance(value, (str, bytes)):
        raise InvalidError(f"Function must return str or bytes when using `--write-result`; got {type(value).__name__}.")
    Path(path).write_bytes(value.encode() if isinstance(value, str) else value)


@contextlib.contextmanager
def _signals(leaving: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C raises KeyboardInterrupt, so that calls are cancelled and the app stops; a second one calls `leaving` and leaves at once.

    SIGTERM, and SIGHUP of a terminal that is closed (unless nohup has it ignored), end like an exit of the program.
    """
    presses = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        if presses > 1:
            leaving()
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {signal.SIGINT: signal.signal(signal.SIGINT, interrupt), signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_status(leave: SystemExit, display: Display) -> int:
    """As Python itself does with `sys.exit(...)` of the user's program."""
    if leave.code is None:
        return 0
    if isinstance(leave.code, int):
        return leave.code
    display.error(str(leave.code))
    return 1


def _nobody_reads() -> bool:
    """Whether what stdout goes into was closed by its reader: then a BrokenPipeError is no mistake of the program."""
    watch = select.poll()
    watch.register(1, 0)
    return any(event & select.POLLERR for _, event in watch.poll(0))


def _leave_quietly() -> None:
    """A reader that went away (``| head``) is no error: nothing is left to be flushed at the interpreter's end."""
    try:
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(message: str) -> NoReturn:
    sys.stderr.write(f"✗ squall run: {message}\n  squall run --help  explains\n")
    raise SystemExit(2)
