"""How an error is shown: the user's own traceback without Squall's frames, or one paragraph that says what and what to do."""

import os
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType

import squall
from squall.model.errors import Error, ImageBuildError, ModuleNotMountable, UserCodeError

_SQUALL = str(Path(squall.__path__[0])) + os.sep
#: Where a container has its own copy of Squall.
_REMOTE_SQUALL = "/.squall/"
#: What carries user code, here and in a container: between Squall's frames and the user's these say nothing.
_CARRIERS = re.compile(r"<frozen (importlib|runpy)|.*/lib/python3\.[0-9]+/(asyncio/|importlib/__init__\.py)")
_BARE = re.compile(r"App\.(function|cls)\(\) takes 1 positional argument but 2 were given")
#: What functions of an app have, and plain ones don't.
_OF_FUNCTIONS = {"remote", "remote_gen", "local", "map", "starmap", "for_each", "spawn", "spawn_map", "with_options", "get_raw_f"}
_TEXT_FRAME = re.compile(r'^ *File "([^"]+)", line ([0-9]+), in .*\n((?: {4,}.*\n)?)', re.MULTILINE)


def is_users(error: BaseException) -> bool:
    """Whether the user's code raised it, so that its traceback is what helps. Squall's own errors are paragraphs."""
    return not isinstance(error, (Error, ModuleNotMountable))


def paragraph(error: BaseException, places: Mapping[str, Path], *, log: bool = False) -> str:
    """What went wrong as the user should read it, without colour and without the leading ``✗``.

    Args:
        places: container path -> the local file that was shipped there.
        log: add the end of a failing build step's log (when nothing else showed it).
    """
    lines = [str(error) or type(error).__name__]
    if isinstance(error, ImageBuildError):
        if error.step and error.step not in lines[0]:
            lines.append(f"  step {error.step_index} of {error.steps}: {error.step}")
        if log and error.log_tail:
            lines += [f"    {line}" for line in error.log_tail.splitlines()]
    if (place := _users_line(error, places)) is not None and not isinstance(error, UserCodeError):
        lines.append(f"  at {place}")
    return "\n".join(lines)


def users_traceback(error: BaseException, places: Mapping[str, Path]) -> str:
    """The traceback as Python prints it, without Squall's frames; frames of a container say so and show the local file. A `hint` may follow.

    ``SQUALL_TRACEBACK=full`` keeps every frame.
    """
    shown = traceback.TracebackException.from_exception(error)
    if os.environ.get("SQUALL_TRACEBACK") == "full":
        return "".join(shown.format())
    whole = shown.stack
    _clean(shown, error, places)
    if not shown.stack and not isinstance(error, SyntaxError) and not hasattr(error, "__squall_container__"):
        shown.stack = whole  # no line of the user's in it: a defect of Squall, which only its own frames explain
    return "".join(shown.format()) + hint(error)


def hint(error: BaseException) -> str:
    """What to do about an error that only looks like one of plain Python: a file or module that is in the other place, parentheses left out. Else empty."""
    there = hasattr(error, "__squall_container__")
    if isinstance(error, ModuleNotFoundError) and not there and error.name and is_users(error):
        return (
            f"  {error.name} is not installed here. If only the image has it, import it in the function, or at the top under  with image.imports():\n"
            f"  If the program needs it here too:  pip install {error.name.partition('.')[0]}"
        )
    if isinstance(error, FileNotFoundError) and there and isinstance(error.filename, str) and Path(error.filename).is_file():
        name = error.filename
        place = name if os.path.isabs(name) else f"/root/{name}"
        return f'  The file is here, not in the container. Add  image.add_local_file("{name}", "{place}")  or put it into a volume.'
    if isinstance(error, TypeError) and not there and (bare := _BARE.match(str(error))) is not None:
        return f"  The decorator needs its parentheses:  @app.{bare[1]}()"
    if isinstance(error, AttributeError) and not there and isinstance(error.obj, FunctionType) and error.name in _OF_FUNCTIONS:
        return f"  {error.obj.__name__} is a plain function. To have .{error.name} it needs a decorator:  @app.function()"
    return ""


def _clean(shown: traceback.TracebackException, error: BaseException, places: Mapping[str, Path]) -> None:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    container = getattr(error, "__squall_container__", "")
    texts = {(file, int(line)): source.strip() for file, line, source in _TEXT_FRAME.findall(getattr(error, "__squall_traceback__", ""))}
    kept: list[traceback.FrameSummary] = []
    for summary, frame in zip(shown.stack, frames, strict=True):
        remote = frame.f_globals.get("__name__") == "squall.remote"
        if _is_squalls(summary.filename, remote) or _carries(summary.filename):
            continue
        kept.append(_remote_frame(summary, container, places, texts) if remote else _local_frame(summary))
    shown.stack = traceback.StackSummary.from_list(kept)
    if type(error.__cause__) is type(error) and hasattr(error, "__squall_container__") and str(error).startswith(str(error.__cause__)):
        shown.__cause__ = None  # the same once more, with less
    for inner, of in ((shown.__cause__, error.__cause__), (shown.__context__, error.__context__)):
        if inner is not None and of is not None:
            _clean(inner, of, places)
    if shown.exceptions and isinstance(error, BaseExceptionGroup):
        for inner, of in zip(shown.exceptions, error.exceptions, strict=True):
            _clean(inner, of, places)


def _local_frame(summary: traceback.FrameSummary) -> traceback.FrameSummary:
    return traceback.FrameSummary(
        _short(summary.filename),
        summary.lineno,
        summary.name,
        line=summary.line,
        end_lineno=summary.end_lineno,
        colno=summary.colno,
        end_colno=summary.end_colno,
    )


def _remote_frame(summary: traceback.FrameSummary, container: str, places: Mapping[str, Path], texts: Mapping[tuple[str, int], str]) -> traceback.FrameSummary:
    file = str(places.get(summary.filename, summary.filename))
    source = texts.get((summary.filename, summary.lineno or 0))
    if source is None:
        source = traceback.FrameSummary(file, summary.lineno, summary.name).line if summary.filename in places else ""
    head = f'  File "{_short(file)}", line {summary.lineno}, in {summary.name}'
    note = f"{' ' * max(2, 60 - len(head))}(in container {container[:21]})" if container else ""
    return traceback.FrameSummary(_short(file), summary.lineno, f"{summary.name}{note}", line=source)


def _users_line(error: BaseException, places: Mapping[str, Path]) -> str | None:
    """The user's innermost local line on the way to the error."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if frame.f_globals.get("__name__") == "squall.remote" or _is_squalls(file, False) or file.startswith(("<", os.path.dirname(os.__file__))):
            continue
        found = f"{_short(file)}:{line} in {frame.f_code.co_name}"
    return found


def _is_squalls(file: str, remote: bool) -> bool:
    return file.startswith(_REMOTE_SQUALL if remote else _SQUALL)


def _carries(file: str) -> bool:
    return _CARRIERS.match(file) is not None


def _short(file: str) -> str:
    """Relative to the current directory where it lies below it."""
    try:
        return str(Path(file).relative_to(Path.cwd()))
    except (ValueError, OSError):
        return file
