"""Several inputs at once in one container, and batches, against a real server."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import together

import squall
from squall.exception import InvalidError, RemoteError
from support.waiting import wait_until

pytestmark = pytest.mark.root

Batched: Any = together.Batched


@pytest.fixture(scope="module")
def running(data: object) -> Iterator[squall.App]:
    with together.app.run():
        yield together.app


@pytest.fixture(autouse=True)
def _up(running: squall.App) -> None:
    """Every test here needs the app."""


@pytest.mark.parametrize("function", [together.threads, together.tasks], ids=["threads", "tasks"])
def test_inputs_share_a_container_and_nothing_else(function: Any) -> None:
    function.remote(0)
    began = time.monotonic()
    results = list(function.map(range(8)))
    assert time.monotonic() - began < 8 * 0.2
    assert [(row[0], row[1]) for row in results] == [(i, i) for i in range(8)]
    assert len({row[2] for row in results}) == 8
    assert all(row[2].startswith(f"in-{row[3].removeprefix('fc-')}") for row in results)
    assert len({row[3] for row in results}) == 1
    assert len({row[4] for row in results}) == 1


@pytest.mark.parametrize("function", [together.sleeper, together.sleeper_async], ids=["threads", "tasks"])
def test_cancelling_one_leaves_the_others(function: Any) -> None:
    host = function.remote(0.0)
    others = [function.spawn(3.0) for _ in range(2)]  # long enough to be seen beside the third, also when this program stands still for a moment
    lost = function.spawn(600.0)
    wait_until(lambda: function.get_current_stats().num_running_inputs == 3, "the three running at once")
    lost.cancel()
    with pytest.raises(RemoteError, match="cancelled"):
        lost.get(timeout=20)
    assert [call.get(timeout=30) for call in others] == [host, host]


@pytest.mark.parametrize("function", [together.divide, together.divide_async], ids=["sync", "async"])
def test_callers_see_single_values(function: Any) -> None:
    results = list(function.map(range(9), [2] * 9))
    assert [value for value, _ in results] == [i / 2 for i in range(9)]
    assert max(size for _, size in results) == 4
    assert function.remote(3, ys=4) == (0.75, 1)


def test_an_exception_fails_all_of_the_batch() -> None:
    results = list(together.divide.map([1, 2, 3, 4], [1, 0, 1, 1], return_exceptions=True))
    assert [type(value) for value in results] == [ZeroDivisionError] * 4


def test_wrong_arguments_fail_only_their_caller() -> None:
    good = together.divide.spawn(6, 3)
    with pytest.raises(InvalidError, match="'zs'"):
        together.divide.remote(1, 2, zs=3)
    assert good.get(timeout=30)[0] == 2.0


def test_a_wrong_number_of_results() -> None:
    with pytest.raises(InvalidError, match="too_many got 2 inputs and returned 3"):
        list(together.too_many.map([1, 2]))
    with pytest.raises(InvalidError, match="returned a str"):
        together.no_list.remote(1)


def test_batched_methods() -> None:
    results = list(Batched(factor=3).times.map(range(6)))
    assert [value for value, _ in results] == [0, 3, 6, 9, 12, 15]
    assert max(size for _, size in results) == 3


def test_batching_as_an_option() -> None:
    assert together.single.with_batching(max_batch_size=2, wait_ms=10).remote(1) == 1
    assert together.single.remote([1]) == [1]
