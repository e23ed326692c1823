"""From an Output to a value or an exception: the very class, with a traceback that goes on into the container."""

import linecache
import os
import pickle
import sys
from types import CodeType, TracebackType
from typing import Any

import msgspec

from squall.model.errors import RemoteError, UserCodeError, rebuild
from squall.wire.messages import CANCELLED, FAILED, RAISED, Fault, Frame, Output, Raised
from squall.wire.values import loads

_FAILURES = (RAISED, FAILED, CANCELLED)

_decode_raised = msgspec.msgpack.Decoder(Raised).decode
_decode_fault = msgspec.msgpack.Decoder(Fault).decode


def value_of(output: Output, function: str) -> Any:
    """The value of an OK or ITEM output; raises what the others carry."""
    if output.status in _FAILURES:
        raise exception_of(output, function)
    return loads(output.data, f"the result of {function}") if output.data else None


def exception_of(output: Output, function: str) -> BaseException:
    """The exception of a failed output.

    Of user code: its own class, attributes and traceback; UserCodeError when it can't be rebuilt here. Of the platform: a class of `squall.exception`.
    """
    if output.status == RAISED:
        return _user_exception(_decode_raised(output.data), function)
    if output.status == CANCELLED:
        return RemoteError(f"the input of {function} was cancelled")
    fault = _decode_fault(output.data)
    return rebuild(fault.code, fault.message, fault.details)


def _user_exception(raised: Raised, function: str) -> BaseException:
    reason = raised.reason
    error: BaseException | None = None
    if raised.pickled is not None:
        try:
            loaded = pickle.loads(raised.pickled)
            error = loaded if isinstance(loaded, BaseException) and not isinstance(loaded, KeyboardInterrupt) else None
            reason = reason or "raised here, it would mean that somebody pressed Ctrl-C"
        except Exception as broken:  # a module that is missing here, or an __init__ of user code
            reason = f"{type(broken).__name__}: {broken}"
    if error is None:
        error = UserCodeError(
            f"{function} raised {raised.type_name}: {raised.message}\n  (the exception itself can't be rebuilt here: {reason})\n{raised.text}",
            type_name=raised.type_name,
            remote_traceback=raised.text,
        )
    error.__dict__["__squall_container__"] = raised.container
    error.__dict__["__squall_traceback__"] = raised.text
    if raised.cause:
        error.__cause__ = _user_exception(_decode_raised(raised.cause), function)
    return error.with_traceback(_rebuild_traceback(raised.frames))


def _rebuild_traceback(frames: tuple[Frame, ...]) -> TracebackType | None:
    """A traceback whose frames have the remote files, lines and names. The frames are made by running an empty body of that name."""
    trace: TracebackType | None = None
    _show_sources(frames)
    for frame in reversed(frames):
        made = _frame(frame)
        if made is not None:
            trace = TracebackType(trace, made.tb_frame, made.tb_lasti, frame.line)
    return trace


def _show_sources(frames: tuple[Frame, ...]) -> None:
    """Give `linecache` the lines that came along, for files that are not here. An entry without a modification time is never checked against the disk."""
    for frame in frames:
        if os.path.exists(frame.file):
            continue
        _, _, lines, _ = linecache.cache.get(frame.file) or (0, None, [], "")  # type: ignore[misc]
        lines = [*lines, *("\n" for _ in range(frame.line - len(lines)))]
        lines[frame.line - 1] = f"{frame.source}\n"
        linecache.cache[frame.file] = (0, None, lines, frame.file)


class _Marker(Exception):
    pass


def _frame(frame: Frame) -> TracebackType | None:
    code: CodeType = compile("\n" * (max(1, frame.line) - 1) + "raise __squall_marker__", frame.file, "exec")
    code = code.replace(co_name=frame.name, co_qualname=frame.name)
    try:
        exec(code, {"__squall_marker__": _Marker, "__name__": "squall.remote", "__file__": frame.file})
    except _Marker:
        trace = sys.exc_info()[2]
        return trace.tb_next if trace is not None else None
    return None
