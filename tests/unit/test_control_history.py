"""What is said of an input's failure."""

import msgspec
import pytest

from squall.control.calls.history import error_of
from squall.control.faults import pack_fault
from squall.model.errors import FunctionTimeoutError
from squall.wire.messages import FAILED, OK, RAISED, Raised


def test_an_error_is_one_line_with_its_class() -> None:
    raised = Raised("builtins.ValueError", "a\nb\x1b[31m", None, (), "Traceback", "ct-1")
    assert error_of(RAISED, msgspec.msgpack.encode(raised)) == "ValueError: a b [31m"
    assert error_of(FAILED, pack_fault(FunctionTimeoutError("too long"))) == "FunctionTimeoutError: too long"
    assert error_of(OK, b"") is None
    assert error_of(None, b"") is None


@pytest.mark.parametrize("data", [b"", b"raised", b"\0parcel:x", b"\x92\xa1\xff\xa1a", b"\x93\xa1a\xa1a" + b"\x91" * 100_000])
@pytest.mark.parametrize("status", [RAISED, FAILED])
def test_what_is_no_error_names_none(status: int, data: bytes) -> None:
    assert error_of(status, data) is None
