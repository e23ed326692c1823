"""The table of function parameters is total: each goes where its row says, has words for a deployment's plan, and stands in the reference."""

import inspect
from typing import Any, get_type_hints

import pytest

import squall
from squall.core.deploy import CHANGED, changes
from squall.exception import InvalidError
from squall.model.fields import FIELDS
from squall.model.options import FunctionOptions
from squall.model.resources import Resources
from squall.model.specs import FunctionSpec, Scaling
from squall.sdk.app.function_parameters import TABLE, ClassParameters, FunctionParameters, OptionParameters, Takes, defaults, of
from squall.sdk.app.run import app_spec
from squall.sdk.source.sources import Shipment
from support.parameters import DOCUMENT, SERVER_DEFAULTS, render

#: Where the fields of a spec come from that are no parameter's.
OF_THE_CODE = {"tag", "module", "qualname", "methods", "is_class", "parameters", "pickled", "source", "variants", "options"}
OF_DECORATORS = {"concurrency"}  # @squall.concurrent
OF_VOLUMES = {"buckets"}
#: Parameters that reach the app and not the spec, and what reads them.
OF_THE_APP = {
    "name": "the tag",
    "serialized": "how the code is shipped",
    "is_generator": "the method's spec",
    "include_source": "what is shipped",
    "nonpreemptible": "always so",
    "max_inputs": "the older spelling of single_use_containers",
}
#: A value of each parameter that is not its default.
OTHER: dict[str, Any] = {
    "image": squall.Image.debian_slim().env({"A": "1"}),
    "schedule": squall.Period(hours=1),
    "env": {"A": "1"},
    "secrets": [],  # named in `test_secrets_and_volumes_wait_for_a_server`
    "gpu": "T4",
    "volumes": {},
    "network_file_systems": {},
    "cpu": (0.5, 2.0),
    "memory": (256, 512),
    "ephemeral_disk": 64,
    "min_containers": 1,
    "max_containers": 7,
    "buffer_containers": 2,
    "scaledown_window": 30,
    "retries": 3,
    "timeout": 5,
    "startup_timeout": 9,
    "enable_memory_snapshot": True,
    "block_network": True,
    "single_use_containers": True,
    "max_pending": 4,
    "fork": False,
    "may_deploy": True,
    "restrict_modal_access": True,
    "runtime": "gvisor",
    "outbound_cidr_allowlist": ["203.0.113.0/24"],
}
ARRIVES = [name for name, row in TABLE.items() if row.to and name != "include_source"]
LATER = {"secrets", "volumes", "network_file_systems"}


def declared(**parameters: Any) -> Any:
    app = squall.App("parameters")
    app.function(serialized=True, name="f", **parameters)(nothing)
    return app_spec(app, Shipment())


def nothing() -> None: ...


def field(spec: FunctionSpec, path: str) -> Any:
    value: Any = spec
    for word in path.split("."):
        value = getattr(value, word)
    return value


def test_each_parameter_has_a_type_and_each_type_a_row() -> None:
    for who, kind in ((Takes.FUNCTION, FunctionParameters), (Takes.CLASS, ClassParameters), (Takes.OPTIONS, OptionParameters)):
        assert set(of(who)) == set(get_type_hints(kind)), who


def test_each_parameter_does_something_or_says_that_it_does_not() -> None:
    for name, row in TABLE.items():
        ways = (bool(row.to), row.not_yet is not None, row.no_effect is not None, name in OF_THE_APP and not row.to)
        assert sum(ways) == 1, name
        assert row.line, name
    assert set(OTHER) == set(ARRIVES)


def test_each_field_of_a_spec_comes_from_somewhere() -> None:
    goes = {path for row in TABLE.values() for path in row.to} - {"include_source"}
    whole = {path.partition(".")[0] for path in goes}
    assert whole | OF_THE_CODE | OF_DECORATORS | OF_VOLUMES == set(FunctionSpec.__struct_fields__)
    for group, kind in (("resources", Resources), ("scaling", Scaling)):
        assert {path for path in goes if path.startswith(f"{group}.")} == {f"{group}.{name}" for name in kind.__struct_fields__}
    of_options = {path.rpartition(".")[2] for row in of(Takes.OPTIONS).values() for path in row.to}
    assert of_options | {"unset", "buckets", "concurrency", "batching"} == set(FunctionOptions.__struct_fields__)


@pytest.mark.parametrize("name", [name for name in ARRIVES if name not in LATER])
def test_each_parameter_arrives_in_the_spec_and_is_announced(name: str) -> None:
    before, after = declared(), declared(**{name: OTHER[name]})
    changed = {
        path
        for row in TABLE.values()
        for path in row.to
        if path not in ("image", "include_source") and field(before.functions[0], path) != field(after.functions[0], path)
    }
    if name == "image":
        assert before.images != after.images
        changed = {"image"} | (changed - {"env"})  # the recipe's fingerprint is a variable
    assert changed == set(TABLE[name].to)
    [(tag, what, words)] = changes(before, after)
    assert (tag, what) == ("f", CHANGED)
    assert words
    for path in TABLE[name].to:
        kind: Any = {"resources": Resources, "scaling": Scaling}.get(path.partition(".")[0], FunctionSpec)
        assert path.rpartition(".")[2] in FIELDS[kind]


def test_secrets_and_volumes_wait_for_a_server() -> None:
    app, volume, secret = squall.App("later"), squall.Volume.from_name("v"), squall.Secret.from_dict({"A": "1"})
    app.function(serialized=True, name="f", secrets=[secret], volumes={"/a": volume}, network_file_systems={"/b": squall.Volume.from_name("w")})(nothing)
    (_, declaration) = app._declared["f"]
    assert declaration.secrets == (secret,)
    assert [path for path, _ in declaration.volumes] == ["/a", "/b"]


@pytest.mark.parametrize(
    ("taker", "who"), [(squall.App.function, Takes.FUNCTION), (squall.App.cls, Takes.CLASS), (squall.Function.with_options, Takes.OPTIONS)]
)
def test_signatures_follow(taker: Any, who: Takes) -> None:
    signature = inspect.signature(taker)
    assert list(signature.parameters) == ["self", *of(who)]
    for name, row in of(who).items():
        assert f"{name}: {row.line}." in taker.__doc__


def test_servers_take_what_the_table_says() -> None:
    parameters = inspect.signature(squall.App.server).parameters
    shared = {name: parameters[name].default for name in parameters if name in TABLE}
    assert shared == {name: SERVER_DEFAULTS.get(name, value) for name, value in defaults(Takes.SERVER).items()}


def test_checks_name_the_parameter() -> None:
    app = squall.App("wrong")
    for name in ARRIVES:
        with pytest.raises(InvalidError, match=name):
            app.function(**{name: object()})


def test_the_reference_is_that_of_the_table() -> None:
    assert render() == DOCUMENT.read_text(), "run scripts/reference and commit what it writes"
