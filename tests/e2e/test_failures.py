"""What goes wrong in user code arrives as what it is, and the next call works."""

import signal
import traceback
from collections.abc import Iterator

import failing
import pytest

import squall
from squall.exception import (
    ContainerExitedError,
    ContainerKilledError,
    DeserializationError,
    FunctionTimeoutError,
    OutOfMemoryError,
    RequestSizeError,
    SerializationError,
    UserCodeError,
)

from .conftest import Runner

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", autouse=True)
def running(data: object) -> Iterator[squall.App]:
    with failing.app.run():
        yield failing.app


def test_an_exception_keeps_its_class_attributes_and_traceback() -> None:
    with pytest.raises(failing.OwnError) as caught:
        failing.own.remote(42)
    assert caught.value.code == 42
    text = "".join(traceback.format_exception(caught.value))
    assert 'raise OwnError("of the user\'s", code)' in text
    assert "failing.py" in text


def test_what_an_exception_was_raised_from_comes_along() -> None:
    with pytest.raises(RuntimeError, match="outer") as caught:
        failing.chained.remote()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    text = "".join(traceback.format_exception(caught.value))
    assert "direct cause" in text and "1 / 0" in text


def test_an_exception_that_can_not_be_pickled_is_named() -> None:
    with pytest.raises(UserCodeError, match="Stubborn") as caught:
        failing.stubborn.remote()
    assert caught.value.type_name == "failing.Stubborn"
    assert "raise Stubborn" in caught.value.remote_traceback


def test_a_value_that_can_not_be_pickled_is_named() -> None:
    with pytest.raises(SerializationError, match="lock"):
        failing.lock_result.remote()


def test_an_argument_that_can_not_be_pickled_is_named() -> None:
    import threading

    with pytest.raises(SerializationError, match="argument 1 of half"):
        failing.half.remote(threading.Lock())


def test_an_argument_that_can_not_be_unpickled_there_is_named() -> None:
    import test_failures_only_here as here  # made by the fixture below

    with pytest.raises(DeserializationError, match="test_failures_only_here"):
        failing.half.remote(here.Thing())


@pytest.fixture(autouse=True)
def module_of_this_side_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("test_failures_only_here")
    exec("class Thing: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "test_failures_only_here", module)


def test_exits_and_signals_are_told_apart() -> None:
    with pytest.raises(SystemExit) as left:
        failing.leave.remote("sys.exit")  # an exception like others: the container lives on
    assert left.value.code == 4
    with pytest.raises(SystemExit) as left:
        failing.leave_while_others_run.remote()
    assert left.value.code == "done here"
    with pytest.raises(ContainerExitedError) as hard:
        failing.leave.remote("os._exit")
    assert hard.value.exit_code == 3
    with pytest.raises(ContainerKilledError) as killed:
        failing.leave.remote("segfault")
    assert killed.value.signal == signal.SIGSEGV
    assert failing.leave.remote("stay") == "stay"


@pytest.mark.parametrize("function", [failing.interrupted, failing.interrupted_later])
def test_an_interrupt_in_a_container_is_an_error_of_the_call(function: squall.Function) -> None:
    with pytest.raises(UserCodeError, match="KeyboardInterrupt: here"):
        function.remote()
    with pytest.raises(UserCodeError):
        function.remote()


@pytest.mark.slow
def test_a_result_that_no_message_holds_is_refused_by_name() -> None:
    with pytest.raises(RequestSizeError, match=r"the return value has 1073741\d{3} bytes.*volume"):
        failing.gives.remote(1 << 30)
    assert failing.gives.remote(3) == bytes(3)


def test_out_of_memory_names_limit_and_peak() -> None:
    assert failing.hog.remote(10) == 10
    with pytest.raises(OutOfMemoryError) as caught:
        failing.hog.remote(1000)
    assert caught.value.limit_bytes == 256 << 20
    assert caught.value.peak_bytes is not None and 200 << 20 < caught.value.peak_bytes <= 256 << 20
    assert "256 MiB allowed" in str(caught.value)
    assert failing.hog.remote(10) == 10


@pytest.mark.parametrize("function", [failing.sleeper, failing.spinner])
def test_a_timeout_stops_the_code(function: squall.Function) -> None:
    assert function.remote(0.01) == 0.01
    with pytest.raises(FunctionTimeoutError, match="timeout of 1 s"):
        function.remote(60.0)
    assert function.remote(0.01) == 0.01


def test_map_raises_the_first_failure_or_returns_it() -> None:
    with pytest.raises(ValueError, match="no 3"):
        list(failing.half.map(range(6)))
    results = list(failing.half.map(range(6), return_exceptions=True))
    assert results[:3] == [0, 1, 2] and results[4:] == [4, 5]
    assert isinstance(results[3], ValueError)


def test_retries() -> None:
    assert failing.third_time.remote("x") == 3


def test_a_crash_among_quick_inputs_blames_the_right_one() -> None:
    """Quick inputs are sent ahead and their results gathered: the crash must lose none of them and blame no other."""
    results = list(failing.quick_or_deadly.map(range(1000), return_exceptions=True))
    assert [i for i, value in enumerate(results) if value != i] == [500]
    assert isinstance(results[500], ContainerExitedError) and results[500].exit_code == 7


def test_a_missing_module_says_what_was_shipped_and_what_to_add() -> None:
    import unshipped

    with unshipped.app.run(), pytest.raises(ModuleNotFoundError) as caught:
        unshipped.f.remote()
    assert "No module named 'beside'" in str(caught.value)
    assert "unshipped.py" in str(caught.value)
    assert 'add_local_python_source("beside")' in str(caught.value)


def test_a_failing_build_step_shows_its_end() -> None:
    app = squall.App("failing-build")
    image = squall.Image.debian_slim().run_commands("echo something went wrong here; exit 9")

    @app.function(image=image, serialized=True)
    def f() -> None: ...

    with pytest.raises(squall.exception.ImageBuildError) as caught, app.run():
        pass
    assert caught.value.exit_code == 9
    assert "something went wrong here" in caught.value.log_tail
    assert caught.value.step_index == 2


MISSING = """
import squall

app = squall.App("missing", image=squall.Image.debian_slim().add_local_python_source("nowhere_module"))

@app.function()
def f(): ...
"""
BLOCKING = """
import squall

app = squall.App("blocking")

@app.function()
def f(x): return x

@app.local_entrypoint()
async def main():
    f.remote(1)
    list(f.map([1]))  # here
"""


def test_a_module_that_is_not_here_is_a_sentence(squall: Runner) -> None:
    done = squall("run", "-q", squall.program("missing.py", MISSING))
    assert done.returncode == 1
    assert done.stderr.startswith("✗ 'nowhere_module' can't be found here"), done.stderr
    assert "Traceback" not in done.stderr


def test_a_call_that_blocks_a_loop_is_warned_of_at_its_line(squall: Runner) -> None:
    done = squall("run", squall.program("blocking.py", BLOCKING))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "AsyncUsageWarning" in line]
    assert [line.split(": AsyncUsageWarning")[0].rsplit("/", 1)[-1] for line in lines] == ["blocking.py:11", "blocking.py:12"], done.stderr
