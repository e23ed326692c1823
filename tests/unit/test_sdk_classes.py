"""Classes, marks and parameters as they are declared: what goes together, what does not, and what is said then."""

import pickle
from typing import Any

import cloudpickle
import pytest

import squall
from squall.exception import DeprecationError, InvalidError
from squall.model.options import FunctionOptions, derive, merge
from squall.model.specs import Concurrency, FunctionSpec, Parameter, Scaling
from squall.sdk.app.run import app_spec
from squall.sdk.function import parameters
from squall.sdk.source.sources import Shipment

app = squall.App("unit")


class Base:
    @squall.enter()
    def enter(self):
        self.entered = ["base"]

    @squall.method()
    def inherited(self):
        return self.entered


@app.cls(cpu=1)
@squall.concurrent(max_inputs=5, target_inputs=3)
class Declared(Base):
    """What a class can have."""

    number: int = squall.parameter()
    text: "str" = squall.parameter(default="t")
    flag: bool = squall.parameter(default=True)

    @squall.enter()
    def own(self):
        self.entered.append("own")

    @squall.method()
    def inherited(self):
        return self.entered, self.number

    @squall.method()
    async def waits(self, x):
        return x

    @squall.method()
    def yields(self):
        yield self.number

    @squall.batched(max_batch_size=4, wait_ms=10)
    def many(self, xs):
        return xs

    def plain(self):
        return self.text


Class: Any = Declared


def spec_of(tag: str) -> FunctionSpec:
    return next(one for one in app_spec(app, Shipment()).functions if one.tag == tag)


def test_the_spec_of_a_class() -> None:
    spec = spec_of("Declared")
    assert spec.is_class
    assert spec.qualname == "Declared"
    assert spec.concurrency == Concurrency(5, 3)
    assert spec.parameters == (Parameter("number", "int", True), Parameter("text", "str", False, "t"), Parameter("flag", "bool", False, True))
    assert {method.name: (method.is_async, method.is_generator) for method in spec.methods} == {
        "inherited": (False, False), "waits": (True, False), "yields": (False, True), "many": (False, False),
    }  # fmt: skip
    assert next(method.batching for method in spec.methods if method.name == "many").max_batch_size == 4
    assert app.registered_classes == {"Declared": Class}


def test_what_the_container_serves() -> None:
    bodies, snap, enter, leave = Class._squall_serve({"number": 4})
    assert (len(snap), len(leave)) == (0, 0)
    for hook in enter:
        hook()
    assert bodies["inherited"]() == (["base", "own"], 4)
    assert isinstance(bodies["inherited"].__self__, Class._squall_raw)


def test_objects() -> None:
    obj = Class(number=1)
    assert (obj.number, obj.text, obj.flag, obj.plain()) == (1, "t", True, "t")
    assert obj.inherited.local() == (["base", "own"], 1)
    assert isinstance(obj.waits, squall.Function)
    assert obj.waits is obj.waits
    with pytest.raises(AttributeError):
        obj.nothing  # noqa: B018
    with pytest.raises(InvalidError, match=r"Declared\.inherited\.remote"):
        obj.inherited()


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((1,), {}, "by name: Declared(number=..."),
        ((), {}, "needs number="),
        ((), {"number": 1, "size": 2}, "no parameter 'size'"),
        ((), {"number": "1"}, "'number' of Declared is an int, not '1'"),
        ((), {"number": True}, "is an int, not True"),
        ((), {"number": 1, "text": b"x"}, "is a str, not b'x'"),
        ((), {"number": 1 << 64}, "64 bits"),
    ],
)
def test_wrong_parameters(args: tuple[Any, ...], kwargs: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Class(*args, **kwargs)
    assert says in str(caught.value)
    assert isinstance(caught.value, TypeError)


def test_equal_sets_of_parameters_are_equal_bytes() -> None:
    assert Class(number=1)._packed == Class(flag=True, text="t", number=1)._packed
    assert Class(number=1)._packed != Class(number=2)._packed
    assert parameters.pack({}) == b""


def test_handles_can_be_pickled() -> None:
    obj = pickle.loads(cloudpickle.dumps(Class(number=3)))
    assert (obj._cls, obj.number) == (Class, 3)
    method = pickle.loads(cloudpickle.dumps(Class(number=3).waits))
    assert (method.tag, method._parameters) == ("Declared.waits", Class(number=3)._packed)
    function = pickle.loads(cloudpickle.dumps(module_function.with_options(cpu=2)))
    assert function._handle.asked.options.cpu_request == 2
    assert pickle.loads(cloudpickle.dumps(module_function)) is module_function


@app.function()
def module_function(x: int) -> int:
    return x


def test_a_class_that_is_sent_by_value() -> None:
    other = squall.App("other")

    @other.cls(serialized=True)
    class Inner:
        size: int = squall.parameter(default=2)

        @squall.method()
        def get(self):
            return self.size

    spec = app_spec(other, Shipment()).functions[0]
    assert spec.pickled is not None
    bodies, *_ = pickle.loads(spec.pickled)._squall_serve({})
    assert bodies["get"]() == 2
    assert Inner is other.registered_classes["Inner"]


def test_a_subclass_of_an_app_class_is_one_of_the_plain_class() -> None:
    class Child(Declared):
        pass

    assert Child.__mro__[1] is Class._squall_raw


# --- what does not go together -----------------------------------------------------------------------------------------------


def plain(self: Any) -> None: ...


def generates(self: Any) -> Any:
    yield 1


def with_default(self: Any, x: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("decorate", "says"),
    [
        (lambda: squall.method()(squall.enter()(plain)), "@squall.enter and @squall.method"),
        (lambda: squall.exit()(squall.batched(max_batch_size=2, wait_ms=1)(plain)), "@squall.batched and @squall.exit"),
        (lambda: squall.method()(squall.batched(max_batch_size=2, wait_ms=1)(plain)), "needs no @squall.method"),
        (lambda: squall.batched(max_batch_size=2, wait_ms=1)(squall.method()(plain)), "needs no @squall.method"),
        (lambda: squall.method()(squall.asgi_app()(plain)), "through the web or with .remote()"),
        (lambda: squall.method()(squall.method()(plain)), "@squall.method twice"),
        (lambda: squall.enter()(generates), "has a yield"),
        (lambda: squall.batched(max_batch_size=2, wait_ms=1)(generates), "has a yield"),
        (lambda: squall.batched(max_batch_size=2, wait_ms=1)(with_default), "has a default"),
        (lambda: squall.batched(max_batch_size=1001, wait_ms=1), "max_batch_size=1001"),
        (lambda: squall.batched(max_batch_size=0, wait_ms=1), "max_batch_size=0"),
        (lambda: squall.batched(max_batch_size=1, wait_ms=600_001), "wait_ms=600001"),
        (lambda: squall.concurrent(), "needs max_inputs="),
        (lambda: squall.concurrent(max_inputs=0), "max_inputs=0"),
        (lambda: squall.concurrent(max_inputs=2, target_inputs=3), "target_inputs=3 is more than max_inputs=2"),
        (lambda: squall.method(plain), "needs its parentheses"),
        (lambda: squall.enter(plain), "needs its parentheses"),
        (lambda: squall.concurrent(plain), "needs its parentheses"),
        (lambda: squall.concurrent(max_inputs=2)(module_function), "goes below @app.function"),
        (lambda: squall.concurrent(max_inputs=2)(Declared), "goes below @app.cls"),
        (lambda: squall.method()(staticmethod(plain)), "not for a staticmethod"),
        (lambda: squall.method()(Base), "not for the class 'Base'"),
        (lambda: squall.App("x").function()(squall.method()(plain)), "for methods of a class"),
        (lambda: squall.App("x").function()(squall.enter()(plain)), "for methods of a class"),
        (lambda: squall.App("x").function()(Base), "that is @app.cls"),
        (lambda: squall.App("x").cls()(plain), "is for classes"),
        (lambda: squall.App("x").cls()(Declared), "decorated twice"),
    ],
)
def test_marks_that_do_not_go_together(decorate: Any, says: str) -> None:
    with pytest.raises(InvalidError) as caught:
        decorate()
    assert says in str(caught.value)


def class_of(**body: Any) -> Any:
    return squall.App("x").cls(serialized=True)(type("Made", (), {"__module__": __name__, **body}))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"__init__": plain}, "has an __init__"),
        ({"x": squall.parameter()}, "needs its type"),
        ({"x": squall.parameter(), "__annotations__": {"x": float}}, "is a float; parameters are int, str, bytes or bool"),
        ({"x": squall.parameter(default="1"), "__annotations__": {"x": int}}, "is no int"),
        ({"f": squall.concurrent(max_inputs=2)(lambda self: 1)}, "that goes on the class"),
        (
            {"a": squall.batched(max_batch_size=2, wait_ms=1)(lambda self, x: x), "b": squall.batched(max_batch_size=2, wait_ms=1)(lambda self, x: x)},
            "2 batched methods",
        ),
    ],
)
def test_classes_that_can_not_be(body: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidError) as caught:
        class_of(**body)
    assert says in str(caught.value)


def test_generators_can_not_be_retried() -> None:
    with pytest.raises(InvalidError, match="'generates' is a generator"):
        squall.App("x").cls(retries=2, serialized=True)(type("Made", (), {"__module__": __name__, "generates": squall.method()(generates)}))


def test_parameters_without_init_are_only_annotations() -> None:
    class Holder:
        x: list = squall.parameter(init=False)  # type: ignore[type-arg]

    assert parameters.parameters_of(Holder) == ()
    with pytest.raises(AttributeError):
        Holder().x  # noqa: B018


def test_unmarked_use_is_told() -> None:
    partial = squall.batched(max_batch_size=2, wait_ms=1)(lambda xs: xs)
    with pytest.raises(InvalidError, match=r"no @app\.function\(\) above it"):
        partial([1])
    assert Base().inherited.__func__ is Base.__dict__["inherited"].raw


# --- options -----------------------------------------------------------------------------------------------------------------


def test_options_change_what_they_name() -> None:
    spec = FunctionSpec("f", "m", "f", 0, env={"A": "1", "S": "secret"}, scaling=Scaling(min_containers=3, max_containers=9))
    made = derive(spec, FunctionOptions(env={"B": "2"}, unset=("S",), timeout_s=5.0, memory_request_mib=64), "name")
    assert (made.tag, made.env, made.timeout_s) == ("f~name", {"A": "1", "B": "2"}, 5.0)
    assert (made.scaling.min_containers, made.scaling.max_containers) == (0, 9)
    assert (made.resources.memory_request_mib, made.resources.cpu_request) == (64, 0.125)
    assert derive(spec, FunctionOptions(), "x").retries is None


def test_later_options_win() -> None:
    both = merge(FunctionOptions(env={"A": "1", "B": "1"}, timeout_s=1.0, max_containers=2), FunctionOptions(env={"B": "2"}, timeout_s=3.0))
    assert (both.env, both.timeout_s, both.max_containers) == ({"A": "1", "B": "2"}, 3.0, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cpu": -1}, "cpu=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"max_containers": 0}, "max_containers=0"),
        ({"gpu": "A100:nine"}, "gpu='A100:nine'"),
        ({"min_containers": 1}, "no parameter 'min_containers'"),
        ({"schedule": None}, "no parameter 'schedule'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidError) as caught:
        module_function.with_options(**options)
    assert says in str(caught.value)


def test_old_options_warn() -> None:
    with pytest.warns(DeprecationError, match="max_containers"):
        assert module_function.with_options(concurrency_limit=2)._handle.asked.options.max_containers == 2  # type: ignore[attr-defined]
