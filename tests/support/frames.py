"""Frames that no honest peer sends: of the right shape with odd values, of nearly the right shape, and plain rubbish. A seed gives the same ones again."""

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
from msgspec import inspect

_INTS = (0, 1, 2, -1, 7, 255, 65_536, 2**31 - 1, 2**31, 2**32, 2**63 - 1, -(2**63), 2**64 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.05, 1e-300, 1e300, math.inf, -math.inf, math.nan)
_TEXTS = (
    "",
    "a",
    "main",
    "..",
    "../../etc/passwd",
    "/",
    "/etc/shadow",
    "a\0b",
    "a,b=c",
    "-o",
    "\n\x1b[31m",
    "é" * 40,
    "x" * 5_000,
    "::",
    "1.5",
    "nan",
    "%s{0}",
)
_BYTES = (b"", b"\0", b"\x80\x05N.", b"\x80\x05]\x94(" + b"]" * 200, b"cos\nsystem\n(S'true'\ntR.", b"\xff" * 300, bytes(70_000))
#: Deeper than any message of ours; what is below is left empty.
_DEPTH_MAX = 6


class Frames:
    """Makes frames of message types.

    Args:
        kinds: types of messages and unions of them; one is chosen for each frame, so what is there twice comes more often.
        known: names and ids that exist, so that messages get further than the first look-up.
    """

    def __init__(self, seed: int, kinds: Sequence[Any], known: Sequence[str]) -> None:
        self._random, self._known = Random(seed), tuple(known)
        self._types = inspect.multi_type_info(kinds)

    def frame(self) -> bytes:
        """Any of the kinds."""
        chance = self._random.random()
        if chance < 0.05:
            return self._random.randbytes(self._random.randrange(1, 64))
        body = msgspec.msgpack.encode(self._value(self._random.choice(self._types), 0))
        if chance < 0.2:
            body = self._mangled(body)
        size = len(body) if chance > 0.02 else self._random.choice((0, len(body) + 1, 2**31, 2**32 - 1))
        return size.to_bytes(4, "big") + body

    def _mangled(self, body: bytes) -> bytes:
        changed = bytearray(body)
        for _ in range(self._random.randrange(1, 4)):
            if changed:
                changed[self._random.randrange(len(changed))] = self._random.randrange(256)
        return bytes(changed[: self._random.randrange(len(changed) + 1)] if self._random.random() < 0.3 else changed)

    def _value(self, kind: inspect.Type, depth: int) -> Any:
        pick = self._random.choice
        match kind:
            case inspect.UnionType(types=types):
                return self._value(pick(types), depth)
            case inspect.StructType():
                return self._struct(kind, depth)
            case (
                inspect.ListType(item_type=item)
                | inspect.SetType(item_type=item)
                | inspect.FrozenSetType(item_type=item)
                | inspect.VarTupleType(item_type=item)
            ):
                return [self._value(item, depth + 1) for _ in range(self._count(depth))]
            case inspect.TupleType(item_types=items):
                return [self._value(item, depth + 1) for item in items]
            case inspect.DictType(key_type=key, value_type=value):
                return {self._value(key, depth + 1): self._value(value, depth + 1) for _ in range(self._count(depth))}
            case inspect.BoolType():
                return pick((True, False))
            case inspect.IntType():
                return pick(_INTS) if self._random.random() < 0.7 else self._random.randrange(100)
            case inspect.FloatType():
                return pick(_FLOATS)
            case inspect.StrType():
                return pick(self._known) if self._known and self._random.random() < 0.6 else pick(_TEXTS)
            case inspect.BytesType() | inspect.MemoryViewType() | inspect.ByteArrayType():
                return pick(_BYTES)
            case inspect.LiteralType(values=values):
                return pick(values)
            case inspect.EnumType(cls=cls):
                return pick([member.value for member in cls])
            case _:
                return pick((None, 0, "", [], {}))

    def _struct(self, kind: inspect.StructType, depth: int) -> Any:
        named = {field.encode_name: self._value(field.type, depth + 1) for field in kind.fields} if depth < _DEPTH_MAX else {}
        if kind.array_like:
            return [*([] if kind.tag is None else [kind.tag]), *named.values()]
        return named if kind.tag_field is None else {kind.tag_field: kind.tag, **named}

    def _count(self, depth: int) -> int:
        return 0 if depth >= _DEPTH_MAX else self._random.choice((0, 1, 1, 2, 5))
