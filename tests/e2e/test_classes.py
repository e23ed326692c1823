"""Classes, handles and options against a real server: what the reference says of them."""

import asyncio
import pickle
import subprocess
from collections.abc import Iterator
from typing import Any

import classes
import pytest

import squall
from squall.exception import DeprecationError, ExecutionError, InvalidError, NotFoundError
from support.waiting import wait_until

from .conftest import SQUALL

pytestmark = pytest.mark.root

Derived: Any = classes.Derived
OneLoop: Any = classes.OneLoop
Leaves: Any = classes.Leaves
FailsToEnter: Any = classes.FailsToEnter


@pytest.fixture(scope="module")
def running(data: object) -> Iterator[squall.App]:
    with classes.app.run():
        yield classes.app


@pytest.fixture(autouse=True)
def _up(running: squall.App) -> None:
    """Every test here needs the app."""


def test_hooks_run_once_bases_first_and_those_for_snapshots_before_others() -> None:
    obj = Derived()
    assert obj.seen.remote() == ["base enter", "own enter snap"]
    assert obj.seen.remote() == ["base enter", "own enter snap"]
    assert obj.overridden.remote() == "derived"


def test_parameters_reach_the_object() -> None:
    assert Derived().values.remote() == (3, "x", b"\0", False, [3])
    assert Derived(size=-(1 << 62), name="ü", seal=b"\xff", loud=True).values.remote() == (-(1 << 62), "ü", b"\xff", True, [-(1 << 62)])


def test_equal_parameters_share_containers_and_others_do_not() -> None:
    here, kind = Derived().where.remote()
    assert kind == "Derived"
    assert Derived(size=3).where.remote()[0] == here
    assert Derived(size=4).where.remote()[0] != here


def test_every_way_to_call_a_method() -> None:
    obj = Derived(size=5)
    assert obj.add.remote(1) == 6
    assert list(obj.add.map(range(3))) == [5, 6, 7]
    assert list(obj.add.starmap([(1,), (2,)])) == [6, 7]
    assert obj.add.spawn(2).get(timeout=30) == 7
    assert obj.twice.remote(4) == 8
    assert list(obj.count.remote_gen(3)) == [0, 5, 10]
    assert list(obj.returns_generator.remote_gen(3)) == [0, 1, 2]

    async def main() -> None:
        assert await obj.add.remote.aio(1) == 6
        assert [item async for item in obj.count.remote_gen.aio(2)] == [0, 5]

    asyncio.run(main())


def test_methods_call_each_other_and_plain_ones() -> None:
    assert Derived(size=6).inside.remote(1) == (7, 7, "plain")


def test_local_objects_are_entered_once() -> None:
    obj = Derived(size=9)
    assert obj.size == 9
    assert obj.seen.local() == ["base enter", "own enter snap"]
    assert obj.seen.local() == ["base enter", "own enter snap"]
    assert obj.values.local() == (9, "x", b"\0", False, [9])
    assert list(obj.count.local(2)) == [0, 9]
    assert obj.helper() == "plain"
    assert asyncio.run(Derived().twice.local(3)) == 6


def test_async_hooks_and_methods_share_a_loop_and_plain_hooks_have_none() -> None:
    assert OneLoop().same.remote() is True


def test_an_enter_that_raises_is_the_callers_error() -> None:
    with pytest.raises(LookupError, match="no model"):
        FailsToEnter().f.remote()


def test_handles_as_arguments() -> None:
    assert classes.takes_handles.remote(classes.square, Derived(size=20), Derived) == (9, 30, 101, 20)
    assert classes.uses_class.remote(7) == (8, (3, "x", b"\0", False, [3]))


def test_the_old_way_without_an_object() -> None:
    with pytest.warns(DeprecationError, match=r"Derived\(\)\.add"):
        assert Derived.add.remote(1) == 4


def test_options_make_a_pool_of_their_own() -> None:
    more: Any = classes.environment.with_options(env={"OPTION": "one"}, memory=256)
    assert more.remote("OPTION")[0] == "one"
    assert classes.environment.remote("OPTION")[0] is None
    again: Any = more.with_options(env={"OTHER": "two"})
    assert (again.remote("OPTION")[0], again.remote("OTHER")[0]) == ("one", "two")
    assert classes.environment.with_options(env={"OPTION": "one"}, memory=256).remote("OPTION")[0] == "one"
    with pytest.raises(InvalidError, match="'memroy'; did you mean 'memory'"):
        classes.environment.with_options(memroy=1)
    with pytest.raises(InvalidError, match=r"Derived\.with_options"):
        Derived().add.with_options(cpu=1)
    variant = Derived.with_options(max_containers=1).with_concurrency(max_inputs=4)
    assert variant(size=2).add.remote(1) == 3
    assert variant(size=2).where.remote()[0] != Derived(size=2).where.remote()[0]


def test_the_autoscaler_and_the_numbers() -> None:
    obj = Derived(size=77)
    settings = obj.update_autoscaler(min_containers=1, max_containers=2, scaledown_window=30)
    assert (settings.min_containers, settings.max_containers, settings.scaledown_window, settings.buffer_containers) == (1, 2, 30.0, 0)

    def settled() -> Any:
        stats = obj.add.get_current_stats()
        return stats if stats.input_headroom == 1 else None

    stats = wait_until(settled, "a container with room")
    assert (stats.backlog, stats.num_total_runners, stats.num_running_inputs) == (0, 1, 0)
    with pytest.raises(InvalidError, match="min_containers=3 is more than max_containers=2"):
        obj.update_autoscaler(min_containers=3)
    obj.update_autoscaler(min_containers=0)
    assert classes.square.update_autoscaler(buffer_containers=1).buffer_containers == 1
    classes.square.update_autoscaler(buffer_containers=0)


def test_ids_and_calls_of_many_inputs() -> None:
    assert squall.Function.from_id(classes.square.object_id).remote(5) == 25
    with pytest.raises(InvalidError, match="fu-"):
        squall.Function.from_id("x")
    call = classes.square.experimental_spawn_map(range(1200))
    assert call.num_inputs() == 1200
    assert list(call.iter(start=1190)) == [i * i for i in range(1190, 1200)]
    known = squall.FunctionCall.from_id(call.object_id)
    assert known.num_inputs() == 1200
    assert classes.square.spawn_map([1, 2, 3]) is None
    assert squall.FunctionCall.gather(classes.square.spawn(3), classes.square.spawn(4)) == [9, 16]
    assert {one.status.name for one in known.get_call_graph()} == {"SUCCESS"}
    with pytest.raises(NotFoundError):
        squall.FunctionCall.from_id("fc-00000000000000000000000000000000").num_inputs()


def test_the_graph_of_a_running_call() -> None:
    call = Leaves(mark="graph").work.spawn(3.0)
    (root,) = call.get_call_graph()
    assert (root.status.name, root.function_call_id, root.function_name) == ("PENDING", call.object_id, "Leaves")
    assert call.get(timeout=30) == "graph"


@pytest.fixture(scope="module")
def deployed(running: squall.App) -> Iterator[Any]:
    classes.app.deploy(name="classes-deployed")
    yield squall.Cls.from_name("classes-deployed", "Derived")
    subprocess.run([SQUALL, "app", "stop", "classes-deployed"], check=True, capture_output=True)


def test_a_deployed_class_is_used_by_its_name(deployed: Any) -> None:
    assert deployed().values.remote() == (3, "x", b"\0", False, [3])
    obj = deployed(size=7, name="y")
    assert obj.values.remote()[:2] == (7, "y")
    # What equals a default is no other set of parameters, and the order does not matter.
    assert obj.where.remote() == deployed(name="y", size=7, loud=False).where.remote() != deployed().where.remote()
    assert pickle.loads(pickle.dumps(obj)).add.remote(1) == 8
    assert pickle.loads(pickle.dumps(obj.add)).remote(2) == 9
    assert obj.update_autoscaler(max_containers=2).max_containers == 2
    assert asyncio.run(obj.add.remote.aio(3)) == 10


def test_a_deployed_class_with_other_options_has_containers_of_its_own(deployed: Any) -> None:
    other = deployed.with_options(env={"SPECIAL": "1"}, max_containers=1)
    assert other().variable.remote("SPECIAL") == "1"
    assert deployed().variable.remote("SPECIAL") is None
    assert pickle.loads(pickle.dumps(other))().variable.remote("SPECIAL") == "1"
    fresh = squall.Cls.from_name("classes-deployed", "Derived")
    assert not fresh.is_hydrated
    assert fresh.hydrate() is fresh
    assert fresh.is_hydrated
    assert fresh.object_id == deployed.object_id
    with pytest.raises(NotFoundError):
        asyncio.run(squall.Cls.from_name("classes-deployed", "Nothing").hydrate.aio())
    both = other.with_concurrency(max_inputs=3)
    assert both().variable.remote("SPECIAL") == "1"
    with pytest.raises(InvalidError, match="no_such"):
        deployed.with_options(no_such=1)


def test_wrong_parameters_of_a_deployed_class_are_refused_before_any_container(deployed: Any) -> None:
    for args, values, match in [((), {"sise": 1}, "has no parameter 'sise'; it has size"), ((), {"size": "1"}, "an int, not '1'"), ((1,), {}, "by name")]:
        with pytest.raises(InvalidError, match=match):
            deployed(*args, **values).add.remote(1)
    with pytest.raises(NotFoundError, match="no method 'nothing'"):
        deployed().nothing.remote()
    with pytest.raises(ExecutionError, match="not in this program"):
        deployed().add.local(1)
