"""Large arguments lie in files, small ones do not; what looks like a reference and is none opens nothing."""

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from squall.control.calls.payload_files import UNHELD_KEPT_S, Parcels
from squall.model.errors import DeserializationError, SerializationError
from squall.wire.parcels import LARGE_BYTES, MARK, name_of, pack_arguments, unpack

LARGE = bytes(LARGE_BYTES)


class OfTheUser:
    """Needs cloudpickle, and does not tell its size."""

    def __init__(self, content: bytes) -> None:
        self.content = content


@pytest.mark.parametrize(
    ("args", "kwargs", "files"),
    [
        ((1, "small"), {}, 0),
        ((LARGE,), {}, 1),
        ((), {"rows": [LARGE.decode()]}, 1),
        (([0] * LARGE_BYTES,), {}, 1),  # seen to be large when it is pickled
        ((OfTheUser(LARGE),), {}, 1),
    ],
    ids=["small", "bytes", "nested text", "many small ones", "an object"],
)
def test_what_is_large_goes_through_a_file(tmp_path: Path, args: tuple[Any, ...], kwargs: dict[str, Any], files: int) -> None:
    data = pack_arguments(args, kwargs, "f", str(tmp_path))
    assert len(list(tmp_path.iterdir())) == files
    assert (name_of(data) is not None) == bool(files)
    got_args, got_kwargs = unpack(data, str(tmp_path), "the arguments")
    assert got_kwargs == kwargs
    assert [vars(value) if isinstance(value, OfTheUser) else value for value in got_args] == [
        vars(value) if isinstance(value, OfTheUser) else value for value in args
    ]


def test_without_a_shared_directory_all_is_sent() -> None:
    assert len(pack_arguments((LARGE,), {}, "f", "")) > LARGE_BYTES


def test_what_cannot_be_pickled_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(SerializationError, match="argument 2 of f"):
        pack_arguments((LARGE, threading.Lock()), {}, "f", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_where_no_file_can_be_written_all_is_sent(tmp_path: Path) -> None:
    with no_file_larger_than(1000):  # EFBIG here, ENOSPC on a full disk
        data = pack_arguments((LARGE,), {}, "f", str(tmp_path))
    assert unpack(data, "", "it") == ((LARGE,), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [MARK, MARK + b"../../etc/passwd", MARK + b"a" * 33, MARK + b"A" * 32, b"\0"])
def test_what_only_looks_like_a_reference_opens_nothing(tmp_path: Path, data: bytes) -> None:
    assert name_of(data) is None
    with pytest.raises(DeserializationError):
        unpack(data, str(tmp_path), "the arguments")


def test_a_file_that_is_gone_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(DeserializationError, match="No such file"):
        unpack(MARK + b"0" * 32, str(tmp_path), "the arguments")


def test_only_what_no_input_holds_is_swept_and_only_when_it_is_old(tmp_path: Path) -> None:
    parcels = Parcels(tmp_path)
    held, fresh = (pack_arguments((LARGE,), {}, "f", str(tmp_path)) for _ in range(2))
    parcels.hold(held)
    now = (tmp_path / str(name_of(fresh))).stat().st_mtime
    parcels.sweep(now + 1)
    assert len(list(tmp_path.iterdir())) == 2
    parcels.sweep(now + UNHELD_KEPT_S + 1)
    assert [path.name for path in tmp_path.iterdir()] == [name_of(held)]
    parcels.drop(held)
    parcels.drop(held)
    assert list(tmp_path.iterdir()) == []
