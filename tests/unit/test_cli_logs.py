"""Which output `squall app logs` shows."""

import pytest

from squall.cli.commands.logs import Lines, Wanted, moment, wanted
from squall.exception import InvalidError
from squall.wire.messages import LogChunk

NOW = 1_800_000_000.0


def chunk(data: bytes, *, container: str = "ct-1", function: str = "f", stream: int = 1, time: float = NOW, input: str = "in-1a-0") -> LogChunk:
    return LogChunk(0, container, function, stream, data, time, input)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({}, True),
        ({"function": "f"}, True),
        ({"function": "g"}, False),
        ({"container": "ct-"}, True),
        ({"container": "ct-2"}, False),
        ({"call": "fc-1a"}, True),
        ({"call": "fc-2"}, False),
        ({"stream": 2}, False),
        ({"since": NOW}, True),
        ({"since": NOW + 1}, False),
        ({"until": NOW}, False),
        ({"until": NOW + 1}, True),
    ],
)
def test_what_is_wanted(given: dict[str, object], taken: bool) -> None:
    assert Wanted(**given).takes(chunk(b"x")) is taken  # type: ignore[arg-type]


def test_methods_are_of_their_class() -> None:
    assert Wanted(function="C").takes(chunk(b"x", function="C.m"))
    assert not Wanted(function="C").takes(chunk(b"x", function="Counter"))


def shown(given: Wanted, *chunks: LogChunk) -> list[tuple[str, int, bytes]]:
    written: list[tuple[str, int, bytes]] = []
    lines = Lines(given, lambda *line: written.append(line))
    for each in chunks:
        lines.add(each)
    lines.close()
    return written


def test_text_is_looked_for_in_whole_lines_of_each_stream() -> None:
    parts = (chunk(b"a needle\nhay\nnee"), chunk(b"needle too\n", stream=2), chunk(b"dle at last"), chunk(b"nothing\n", container="ct-2"))
    assert shown(Wanted(text="needle"), *parts) == [("ct-1", 1, b"a needle\n"), ("ct-1", 2, b"needle too\n"), ("ct-1", 1, b"needle at last\n")]
    assert shown(Wanted(tail=1, text="needle"), *parts) == [("ct-1", 1, b"needle at last\n")]
    assert shown(Wanted(tail=0), *parts) == []
    ((_, _, line),) = shown(Wanted(timestamps=True), chunk(b"x\n"))
    assert line.startswith(b"2027-01-1")
    assert line.endswith(b" x\n")


def test_times() -> None:
    assert moment("10m", NOW) == NOW - 600
    assert moment("1.5h", NOW) == NOW - 5400
    assert moment("2027-01-15T08:00:00+00:00", NOW) == NOW
    for wrong in ("yesterday", "10", "3parsec", ""):
        with pytest.raises(InvalidError, match="neither an age"):
            moment(wrong, NOW)
    with pytest.raises(InvalidError, match="--source"):
        wanted(function="", container="", call="", source="stdin", since="", until="", search="", tail=None, timestamps=False)
