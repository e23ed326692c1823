"""Values of containers as JSON, without believing what a container sends: no class, and bounds of memory, time and length."""

import asyncio
import base64
import io
import json
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from squall.model.errors import RequestSizeError

#: Larger values are refused.
VALUE_BYTES_MAX = 16 << 20
#: A value that is read at once; larger ones take milliseconds, and are read in a thread.
QUICK_BYTES = 1 << 10
#: Steps of a pickle, at least one for each part of the value. A step makes at most some 200 bytes, and takes a microsecond.
STEPS_MAX = 500_000
#: The encoder goes through all levels for each part.
DEPTH_MAX = 100
#: JSON may be so many times as long as the pickle, which says what is there twice only once; beyond that it is no value but a bomb.
EXPANSION_MAX, EXPANSION_FREE = 64, 1 << 16
#: ... and never longer than that, nor of more parts.
JSON_BYTES_MAX, PARTS_MAX = 64 << 20, 1_000_000

#: Threads that read: two hold up the event loop little.
_readers = ThreadPoolExecutor(2, thread_name_prefix="plain values")

#: What the values of JSON are written with. Sets are no JSON and take 100 times the memory of their pickle; bytes are none, and some are allocated by the
#: length that they announce.
_OPCODES = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE,
    pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.LONG4, pickle.BINFLOAT,
    pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8, pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS,
    pickle.EMPTY_DICT, pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
    pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT,
)  # fmt: skip


class Json(str):
    """A body that is JSON already."""


class _Steps(dict[int, Callable[[Any], None]]):
    """The steps that a reader may take, so many of them."""

    def __init__(self) -> None:
        super().__init__({code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES})
        self[pickle.SETITEM[0]], self[pickle.SETITEMS[0]] = _Plain.set_item, _Plain.set_items
        self._left = STEPS_MAX

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self._left -= 1
        if self._left < 0:
            raise pickle.UnpicklingError("too many steps")
        return super().__getitem__(code)


# The one in Python, not the one in C: that allocates as much memory as the number of a memo says, and holds up the loop until it is done.
class _Plain(pickle._Unpickler):
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.dispatch = _Steps()  # type: ignore[misc]  # of this one reader, since it counts

    def set_items(self) -> None:
        items = self.pop_mark()
        self._fill(items)

    def set_item(self) -> None:
        value = self.stack.pop()
        self._fill([self.stack.pop(), value])

    def _fill(self, items: list[Any]) -> None:
        filled = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other numbers and tuples can be chosen so that their hashes are the same, and each takes as long as all before it.
            if not isinstance(key, str | float | None) and not (isinstance(key, int) and -(1 << 63) <= key < 1 << 63):
                raise pickle.UnpicklingError("no key of JSON")
            filled[key] = value


async def encoded(data: bytes, besides: dict[str, Any], *, indent: int | None = None) -> Json:
    """A JSON object: `besides`, and a pickle's value as ``value``. Where JSON has no form for it, or a bound is passed, the pickle as ``pickle``, in base64.

    Raises:
        RequestSizeError: it is larger than VALUE_BYTES_MAX.
    """
    if len(data) > VALUE_BYTES_MAX:
        raise too_large(data)
    if len(data) < QUICK_BYTES:
        return _encode(data, besides, indent)
    return await asyncio.get_running_loop().run_in_executor(_readers, _encode, data, besides, indent)


def too_large(data: bytes) -> RequestSizeError:
    return RequestSizeError(
        f"the value has {len(data)} bytes, and over HTTP at most {VALUE_BYTES_MAX >> 20} MiB are passed on: "
        "take it with Squall's client for Python, or let the function write it to a volume and return where"
    )


def _encode(data: bytes, besides: dict[str, Any], indent: int | None) -> Json:
    # In parts: its other way is one long call into C, in which no other thread runs.
    encoder = json.JSONEncoder(allow_nan=False, indent=indent)
    try:
        value = _Plain(data).load()
        if _bounded(value, min(EXPANSION_FREE + EXPANSION_MAX * len(data), JSON_BYTES_MAX)):
            return Json("".join(encoder.iterencode({**besides, "value": value})))
    except Exception:  # pickles of other things fail in many ways; so do numbers that JSON has no form for
        pass
    return Json("".join(encoder.iterencode({**besides, "pickle": base64.b64encode(data).decode()})))


def _bounded(value: Any, most: int) -> bool:
    """Whether little is written of it, and it is not nested too deeply: a few lists that hold each other twice are longer than any disk."""
    waiting, depth, parts = [value], 0, PARTS_MAX
    while waiting:
        depth += 1
        if depth > DEPTH_MAX:
            return False
        level, waiting = waiting, []
        for part in level:
            most -= len(part) + 2 if isinstance(part, str | list | tuple | dict) else 2
            parts -= len(part) if isinstance(part, list | tuple | dict) else 0
            if most < 0 or parts < 0:
                return False
            if isinstance(part, list | tuple):
                waiting.extend(part)
            elif isinstance(part, dict):
                waiting.extend(part)
                waiting.extend(part.values())
    return True
