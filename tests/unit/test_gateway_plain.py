"""Values of containers as JSON: what is plain comes through, what is a bomb stays a pickle and costs little."""

import asyncio
import base64
import json
import pickle
import time
import tracemalloc
from typing import Any

import pytest

from squall.gateway.api.plain_values import VALUE_BYTES_MAX, encoded
from squall.model.errors import RequestSizeError


def read(data: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(asyncio.run(encoded(data, {"call": "fc-1"})))
    assert answer.pop("call") == "fc-1"
    return answer


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("value", [None, True, 1, -(1 << 200), 1.5, "é\n", [], [1, [2, {"a": [None]}]], {"1": {}}, ["x" * 300] * 20, list(range(30_000))])
def test_plain_values_come_through(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == {"value": value}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(float("nan")), pickle.dumps(b"bytes"), pickle.dumps({1, 2}), pickle.dumps(1 << 99_999), pickle.dumps(nested(200)), pickle.dumps({(1,): 1}),
        pickle.dumps(ValueError()), b"", b"rubbish", b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".", b"\x80\x05r\xff\xff\xff\x7f.",
    ],
)  # fmt: skip
def test_what_is_not_plain_stays_a_pickle(data: bytes) -> None:
    assert read(data) == {"pickle": base64.b64encode(data).decode()}


#: A tenth of what the house was attacked with; `]` is a list, `\x8f` a set, in protocol 4.
BOMBS = {
    "lists": b"\x80\x04](" + b"]" * 4_000_000 + b"e.",
    "sets": b"\x80\x04](" + b"\x8f" * 2_000_000 + b"e.",
    "the same part again": b"\x80\x04](X\x00\x00\x01\x00" + b"a" * 65536 + b"q\x00" + b"h\x00" * 400_000 + b"e.",
    "lists of the same lists": b"\x80\x04]q\x00" + b"".join(b"](h%ch%ce%b" % (n, n, b"q%c" % (n + 1)) for n in range(60)) + b".",
    "keys with one hash": b"\x80\x04}(" + b"".join(b"\x8a\x0c" + (n * ((1 << 61) - 1)).to_bytes(12, "little") + b"N" for n in range(1, 100_000)) + b"u.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little(name: str) -> None:
    data = BOMBS[name]
    began = time.process_time()
    assert set(read(data)) == {"pickle"}
    assert time.process_time() - began < 10
    tracemalloc.start()
    try:
        assert set(read(data)) == {"pickle"}
        assert tracemalloc.get_traced_memory()[1] < 12 * len(data) + (80 << 20)
    finally:
        tracemalloc.stop()


def test_what_is_too_large_is_refused_with_what_to_do() -> None:
    with pytest.raises(RequestSizeError, match="16 MiB.*write it to a volume"):
        read(bytes(VALUE_BYTES_MAX + 1))
