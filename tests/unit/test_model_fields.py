"""The table of fields is total, and a deployment announces a change of every one of them."""

from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from squall.core.deploy import CHANGED, SAME, changes
from squall.model.fields import FIELDS, differences
from squall.model.options import FunctionOptions, derive
from squall.model.resources import Gpu, Resources
from squall.model.specs import (
    AppSpec,
    Attached,
    Batching,
    BucketMount,
    FunctionSpec,
    ImageSpec,
    MethodSpec,
    Parameter,
    RetryPolicy,
    Scaling,
    Schedule,
    SourceFile,
    Step,
    VolumeMount,
    Web,
)

#: Compared whole: their fields have no words of their own.
WHOLE = {ImageSpec, Step, SourceFile, Gpu}
IMAGES = (ImageSpec((Step("debian_slim"),)), ImageSpec((Step("debian_slim"), Step("pip_install", {"packages": ["numpy"]}))))
FULL = FunctionSpec(
    "f", "program", "f", 0,
    methods=(MethodSpec("work", batching=Batching(2, 10), web=Web("asgi", startup_timeout_s=1.0)),),
    parameters=(Parameter("x", "int", True),),
    pickled=b"1",
    source=(SourceFile("/a.py", "0" * 64, 1),),
    env={"A": "1"},
    secrets=("st-1",),
    volumes=(VolumeMount("/data", "vo-1"),),
    buckets=(BucketMount("/models", "models", "https://example.org", secret="st-1"),),
    resources=Resources(0.5, 4.0, 128, 256, 1000, (Gpu("T4"),)),
    scaling=Scaling(0, 2, 0, 60.0, 10),
    retries=RetryPolicy(),
    startup_timeout_s=10.0,
    schedule=Schedule("0 9 * * *"),
    outbound_cidrs=("10.0.0.0/8",),
    runtime="gvisor",
    variants=Attached(("st-2",), (VolumeMount("/more", "vo-2"),), (BucketMount("/b", "b"),), (b"\x80",)),
)  # fmt: skip


def app(*functions: FunctionSpec) -> AppSpec:
    return AppSpec("name", "description", IMAGES, functions)


def structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """Every kind of struct that values of this type can hold."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in WHOLE:
        yield kind
        for hint in get_type_hints(kind).values():
            yield from structs(hint)
    for inner in get_args(kind):
        yield from structs(inner)


def other(hint: Any, now: Any) -> Any:
    """Another value of this type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return other(inner[0], now)
    if origin is tuple:
        return now[1:] if now else (other(inner[0], None),)
    if origin is dict:
        return {**(now or {}), "B": "2"}
    if hint is bool:
        return not now
    if hint in (int, float):
        return hint((now or 0) + 1)
    if hint is bytes:
        return (now or b"") + b"x"
    if hint in (str, Any):
        return f"{now or ''}x"
    hints, required = get_type_hints(hint), len(hint.__struct_fields__) - len(hint.__struct_defaults__)
    if now is None:
        now = hint(**{name: other(hints[name], None) for name in hint.__struct_fields__[:required]})
    first = hint.__struct_fields__[0]
    return msgspec.structs.replace(now, **{first: other(hints[first], getattr(now, first))})


def changed(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """This struct with one field changed, for every field of it and of the structs within."""
    hints = get_type_hints(type(value))
    for name in value.__struct_fields__:
        now = getattr(value, name)
        yield f"{path}{name}", msgspec.structs.replace(value, **{name: other(hints[name], now)})
        within = now[0] if isinstance(now, tuple) and now else now
        if isinstance(within, msgspec.Struct):
            for place, inner in changed(within, f"{path}{name}."):
                yield place, msgspec.structs.replace(value, **{name: (inner, *now[1:]) if isinstance(now, tuple) else inner})


CASES = {place: spec for place, spec in changed(FULL) if place != "tag"}


def test_every_field_of_a_declaration_has_its_words() -> None:
    kinds = {*structs(AppSpec)}
    assert {FunctionSpec, VolumeMount, Web, Schedule} <= kinds
    assert {kind: list(FIELDS.get(kind, {})) for kind in kinds} == {kind: list(kind.__struct_fields__) for kind in kinds}
    assert {*FIELDS} == kinds


@pytest.mark.parametrize("place", CASES)
def test_a_deployment_announces_a_change_of_every_field(place: str) -> None:
    [(tag, what, words)] = changes(app(FULL), app(CASES[place]))
    assert (tag, what) == ("f", CHANGED), place
    assert words
    assert all(words), words


def test_nothing_is_announced_where_nothing_changes() -> None:
    assert changes(app(FULL), app(msgspec.msgpack.decode(msgspec.msgpack.encode(FULL), type=FunctionSpec))) == [("f", SAME, [])]


def test_a_new_description_is_a_change_of_the_app() -> None:
    assert changes(app(), msgspec.structs.replace(app(), description="new")) == [("", CHANGED, ["description description → new"])]


def test_isolation_comes_first_and_is_said_in_the_parameters_words() -> None:
    before = FunctionSpec("f", "program", "f", 0, block_network=True, volumes=(VolumeMount("/data", "vo-1", read_only=True),), outbound_cidrs=("10.0.0.0/8",))
    after = msgspec.structs.replace(
        before, image=1, block_network=False, volumes=(VolumeMount("/data", "vo-1"), VolumeMount("/b", "vo-2")), outbound_cidrs=None, runtime="gvisor",
        single_use=True, resources=Resources(memory_request_mib=256), env={"A": "1"}, methods=(MethodSpec(web=Web("asgi", requires_proxy_auth=True)),),
    )  # fmt: skip
    [(_, _, words)] = changes(app(before), app(after))
    assert words == [
        "volume at /data: read_only yes → no",
        "volume at /b added",
        "block_network yes → no",
        "outbound_cidr_allowlist 10.0.0.0/8 → everything",
        "single_use_containers no → yes",
        "runtime the server's default → gvisor",
        "image changed (1 of 2 steps)",
        "web added",
        "environment +A",
        "memory 128 MiB → 256 MiB",
    ]


def test_removing_the_authentication_of_a_web_function_comes_first() -> None:
    before, after = (FunctionSpec("f", "p", "f", 0, methods=(MethodSpec(web=Web("asgi", requires_proxy_auth=on)),), timeout_s=1 + on) for on in (True, False))
    assert changes(app(before), app(after)) == [("f", CHANGED, ["web: requires_proxy_auth yes → no", "timeout 2 s → 1 s"])]


def test_what_a_variant_can_change_has_words_too() -> None:
    hints = get_type_hints(FunctionOptions)
    requests = {"cpu_limit": {"cpu_request": FULL.resources.cpu_request}, "memory_limit_mib": {"memory_request_mib": FULL.resources.memory_request_mib}}
    for name in FunctionOptions.__struct_fields__:
        values = {name: ("A",) if name == "unset" else other(hints[name], None), **requests.get(name, {})}
        phrases = [change.phrase for change in differences(FunctionSpec, FULL, derive(FULL, FunctionOptions(**values), "v"))]
        assert [phrase for phrase in phrases if not phrase.startswith(("name ", "options ", "no schedule"))], name
