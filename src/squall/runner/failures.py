"""An exception of user code as bytes: the exception itself, and its traceback for people."""

import linecache
import pickle
import sys
import traceback
from types import TracebackType

import msgspec

from squall.runner import prints
from squall.runner.context import here
from squall.wire.messages import Frame, Raised, Run
from squall.wire.values import pickler

#: The pickled exception is dropped beyond this: it would be a value in disguise.
PICKLED_BYTES_MAX = 16 << 20


#: Exceptions that were raised from others, told back to so many.
CHAIN_MAX = 8


def failed(error: BaseException, run: Run) -> bytes:
    """A packed `Raised`. Of a call that nobody waits for, spawned or scheduled, the traceback goes into the container's output too."""
    if run.unwatched:
        prints.flush()
        sys.stderr.write("".join(traceback.format_exception(type(error), error, user_part(error.__traceback__))))
        prints.flush()
    return pack_exception(error)


def pack_exception(error: BaseException, depth: int = 0) -> bytes:
    """A packed `Raised`. Never raises: what can't be pickled is left out, with the reason."""
    pickled, reason = _pickle(error)
    frames = tuple(
        Frame(code.co_filename, line, code.co_name, linecache.getline(code.co_filename, line).strip())
        for code, line in ((frame.f_code, line) for frame, line in traceback.walk_tb(user_part(error.__traceback__)))
    )
    try:
        message = str(error)
    except Exception as broken:  # a __str__ of user code
        message = f"<the message can't be made: {type(broken).__name__}>"
    text = "".join(traceback.format_exception(type(error), error, user_part(error.__traceback__)))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    cause = pack_exception(before, depth + 1) if before is not None and depth < CHAIN_MAX else b""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    return msgspec.msgpack.encode(Raised(name, message, pickled, frames, text, here.container, reason, cause))


def user_part(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is not the runner's."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(("squall.", "importlib")):
        trace = trace.tb_next
    return trace


def _pickle(error: BaseException) -> tuple[bytes | None, str]:
    try:
        pickled = pickler().dumps(error, protocol=5)
        pickle.loads(pickled)  # an __init__ with other arguments fails only here
    except Exception as broken:  # pickling runs user code
        return None, f"{type(broken).__name__}: {broken}"
    if len(pickled) > PICKLED_BYTES_MAX:
        return None, f"it is {len(pickled)} bytes when pickled"
    return pickled, ""
