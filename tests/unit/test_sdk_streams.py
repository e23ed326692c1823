"""Output of several containers on one stream: nothing lost, nothing changed, no two in one line."""

import contextlib
import io
import os
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from squall.sdk.output.line_streams import LineStreams
from squall.sdk.output.plain import PrintingSink
from squall.wire.messages import ContainerProgress, ImageProgress, LogChunk


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def text(kind: type[io.TextIOWrapper] = io.TextIOWrapper) -> Any:
    return kind(io.BytesIO(), encoding="utf-8", write_through=True)


def written(stream: Any) -> bytes:
    data = stream.buffer.getvalue()
    assert isinstance(data, bytes)
    return data


def test_a_lone_container_shows_at_once_without_line_ends() -> None:
    out, err = text(), text()
    streams = LineStreams(out, err)
    streams.write("a", 1, b"10%\r")
    streams.write("a", 1, b"20%\r")
    assert written(out) == b"10%\r20%\r"


def test_others_wait_for_the_end_of_a_line() -> None:
    out, err = text(), text()
    streams = LineStreams(out, err)
    streams.write("a", 1, b"from ")
    streams.write("b", 1, b"b\nand b")
    streams.write("c", 1, b"c\n")
    streams.write("b", 2, b"error\n")
    assert (written(out), written(err)) == (b"from ", b"error\n")
    streams.write("a", 1, b"a\n")
    assert written(out) == b"from a\nb\nand b", "b has a line open now, so c waits on"
    streams.write("b", 1, b" more\n")
    assert written(out) == b"from a\nb\nand b more\nc\n"


def test_a_container_that_ended_is_not_waited_for() -> None:
    out = text()
    streams = LineStreams(out, text())
    streams.write("a", 1, b"half")
    streams.write("b", 1, b"b\n")
    streams.release("a")
    assert written(out) == b"halfb\n"


def test_one_terminal_has_one_owner_for_both_streams() -> None:
    out, err = text(Terminal), text(Terminal)
    streams = LineStreams(out, err)
    streams.write("a", 1, b"half")
    streams.write("b", 2, b"error\n")
    assert written(err) == b""
    streams.write("a", 1, b"\n")
    assert written(err) == b"error\n"


def test_too_much_is_not_held() -> None:
    out = text()
    streams = LineStreams(out, text())
    streams.write("a", 1, b"half")
    streams.write("b", 1, b"x" * (2 << 20) + b"\n")
    assert len(written(out)) > 2 << 20


def test_a_reader_that_went_away() -> None:
    read, write = os.pipe()
    os.close(read)
    out = os.fdopen(write, "w")
    streams = LineStreams(out, text())
    streams.write("a", 1, b"x\n")
    streams.write("a", 1, b"y\n")
    assert streams.broken
    with contextlib.suppress(BrokenPipeError):
        out.close()


chunks = st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=6).map(lambda data: data.replace(b"\x00", b"\n")), st.booleans()), max_size=30)


@given(chunks)
def test_every_containers_bytes_arrive_in_order(sent: list[tuple[str, bytes, bool]]) -> None:
    """Each container writes only its own letter and line ends, so that the origin of each byte is known."""
    out = text()
    streams = LineStreams(out, text())
    expected = dict.fromkeys("abc", b"")
    for source, shape, release in sent:
        data = b"".join(b"\n" if byte % 3 == 0 else source.encode() for byte in shape)
        expected[source] += data
        streams.write(source, 1, data)
        if release:
            streams.release(source)
    live = written(out)
    streams.close()
    found = written(out)
    assert len(found) == sum(map(len, expected.values()))
    for source, data in expected.items():
        assert found.count(source.encode()) == data.count(source.encode())
    if not any(release for *_, release in sent):
        assert all(len(set(line)) <= 1 for line in live.split(b"\n")), "two containers in one line"


def test_progress_lines() -> None:
    out, err = text(), text()
    sink = PrintingSink(stdout=out, stderr=err)
    sink.event(ImageProgress(0, 0, "f", 1, 2, "base debian 12", "hit"))
    assert written(err) == b"", "what is there already is not worth a line"
    sink.event(ImageProgress(0, 0, "f", 2, 2, "apt_install jq", "start"))
    sink.event(ImageProgress(0, 0, "f", 2, 2, "apt_install jq", "log", line="Unpacking jq"))
    sink.event(ImageProgress(0, 0, "f", 2, 2, "apt_install jq", "done", seconds=1.34))
    sink.event(ContainerProgress(0, "ct-1", "f", "ready", seconds=0.05))
    sink.event(LogChunk(0, "ct-1", "f", 1, b"hello\n", 0.0))
    sink.close()
    assert written(err).decode().splitlines() == ["• image for f", "    apt_install jq .......................... 1.3 s"]
    assert written(out) == b"hello\n"
    assert (list(sink.containers), sink.image_s) == (["ct-1"], 1.34)


def test_a_failing_step_shows_the_end_of_its_log() -> None:
    err = text()
    sink = PrintingSink(stdout=text(), stderr=err)
    sink.event(ImageProgress(0, 0, "f", 1, 1, "run_commands false", "start"))
    for number in range(100):
        sink.event(ImageProgress(0, 0, "f", 1, 1, "run_commands false", "log", line=f"line {number}"))
    sink.event(ImageProgress(0, 0, "f", 1, 1, "run_commands false", "failed"))
    lines = written(err).decode().splitlines()
    assert lines[1].endswith(" failed")
    assert [line.strip() for line in lines[2:]] == [f"line {number}" for number in range(80, 100)]


def test_of_images_that_are_built_side_by_side_each_line_says_whose_it_is() -> None:
    err = text()
    sink = PrintingSink(stdout=text(), stderr=err, verbose=True)
    for image, function, state, line in (
        (0, "f", "start", ""), (0, "f", "done", ""), (1, "g", "note", "another Python"), (1, "g", "start", ""), (0, "f", "log", "one"), (1, "g", "log", "two"),
        (1, "g", "failed", ""), (0, "f", "stopped", ""),
    ):  # fmt: skip
        sink.event(ImageProgress(1, image, function, 2, 3, f"step of {function}", state, line, 0.5))
    assert written(err).decode().splitlines() == [
        "• image for f", f"    step of f {'.' * 31} 0.5 s", "• image for g", "• another Python", "      f | one", "      g | two",
        f"    g | step of g {'.' * 27} failed",
    ]  # fmt: skip
