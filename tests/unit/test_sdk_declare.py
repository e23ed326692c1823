"""What `@app.function(...)` accepts, what it refuses, and what it says then."""

import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import squall
from squall.exception import DeprecationError, InvalidError, UnsupportedError
from squall.model.resources import Gpu
from squall.model.specs import BucketMount, FunctionSpec, RetryPolicy
from squall.sdk.app.function_parameters import TABLE
from squall.sdk.app.run import app_spec
from squall.sdk.source.sources import Shipment
from squall.wire.state import Opened, OpenObject, PutSecret


def body(x: int = 0) -> int:
    return x


def generates() -> Iterator[int]:
    yield 1


async def waits() -> int:
    return 1


async def generates_async() -> Any:
    yield 1


class Holder:
    def method(self) -> None: ...


def declared(**parameters: Any) -> FunctionSpec:
    app = squall.App("unit")
    app.function(**parameters)(body)
    return app_spec(app, Shipment()).functions[0]


def test_defaults_are_those_of_the_reference() -> None:
    spec = declared()
    assert (spec.timeout_s, spec.startup_timeout_s, spec.retries) == (300.0, None, None)
    assert (spec.resources.cpu_request, spec.resources.memory_request_mib, spec.resources.memory_limit_mib) == (0.125, 128, None)
    assert (spec.scaling.min_containers, spec.scaling.max_containers, spec.scaling.scaledown_window_s) == (0, None, 60.0)
    assert (spec.block_network, spec.single_use, spec.pickled) == (False, False, None)


def test_resources() -> None:
    one = declared(cpu=2, memory=512, gpu="a100-80gb:2").resources
    assert (one.cpu_request, one.cpu_limit, one.memory_request_mib, one.memory_limit_mib) == (2.0, None, 512, None)
    assert one.gpus == (Gpu("A100-80GB", 2),)
    two = declared(cpu=(0.5, 4), memory=(256, 1024), gpu=["H100", "any"]).resources
    assert (two.cpu_request, two.cpu_limit, two.memory_request_mib, two.memory_limit_mib) == (0.5, 4.0, 256, 1024)
    assert two.gpus == (Gpu("H100"), Gpu("any"))


def test_retries_and_scaling() -> None:
    assert declared(retries=3).retries == RetryPolicy(3, 1.0, 1.0, 60.0)
    assert declared(retries=squall.Retries(max_retries=2)).retries == RetryPolicy(2, 1.0, 2.0, 60.0)
    scaling = declared(min_containers=1, max_containers=1, buffer_containers=2, scaledown_window=2).scaling
    assert (scaling.min_containers, scaling.max_containers, scaling.buffer_containers, scaling.scaledown_window_s) == (1, 1, 2, 2.0)


class Clerk:
    """Stands for the server where only secrets and volumes are looked up: it keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def request(self, command: object, on_event: object = None) -> Opened:
        self.told.append(command)
        name = getattr(command, "name", "")
        return Opened(f"st-{len(self.told)}", "secret", name, getattr(command, "environment", "") or "main", 0.0)


def test_secrets_go_to_the_server_and_only_references_into_the_spec() -> None:
    clerk = Clerk()
    app = squall.App("unit", secrets=[squall.Secret.from_dict({"A": "app"})])
    named = squall.Secret.from_name("tokens", required_keys=["T"])
    app.function(secrets=[squall.Secret.from_dict({"B": "hush", "N": None}), named, squall.Secret.from_dict({})], env={"C": "env", "N": None})(body)
    spec = app_spec(app, Shipment(), client=clerk, environment="dev").functions[0]  # type: ignore[arg-type]
    assert spec.secrets == ("st-1", "st-2", "dev/tokens")
    assert spec.env["C"] == "env"
    assert "N" not in spec.env
    assert b"hush" not in msgspec.msgpack.encode(spec)
    inline, own, asked = clerk.told
    assert isinstance(inline, PutSecret)
    assert isinstance(own, PutSecret)
    assert isinstance(asked, OpenObject)
    assert (inline.values, own.values, asked.required) == ({"A": "app"}, {"B": "hush"}, ("T",))
    assert "hush" not in repr(own)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": 86_401}, "timeout=86401"),
        ({"timeout": None}, "timeout=None"),
        ({"timeout": float("nan")}, "timeout=nan"),
        ({"timeout": True}, "timeout=True"),
        ({"startup_timeout": 0}, "startup_timeout=0"),
        ({"cpu": -1}, "cpu=-1"),
        ({"cpu": 0}, "cpu=0"),
        ({"cpu": (2, 1)}, "limit is smaller"),
        ({"cpu": "2"}, "cpu='2'"),
        ({"memory": -1}, "memory=-1"),
        ({"memory": 0.5}, "memory=0.5"),
        ({"memory": (512, 256)}, "limit is smaller"),
        ({"memory": (512, None)}, "memory="),
        ({"ephemeral_disk": 8}, "ephemeral_disk=8"),
        ({"outbound_cidr_allowlist": "1.2.3.4/32"}, "is not a list"),
        ({"outbound_cidr_allowlist": ["1.2.3.4/8"]}, "has host bits set"),
        ({"outbound_cidr_allowlist": ["2001:db8::/32"]}, "containers have IPv4 only"),
        ({"outbound_cidr_allowlist": [], "block_network": True}, "give one of them"),
        ({"ephemeral_disk": "1GB"}, "ephemeral_disk='1GB'"),
        ({"runtime": "runc"}, "runtime='runc'"),
        ({"gpu": "A1000 x"}, "gpu='A1000 x'"),
        ({"gpu": "A100:0"}, "gpu='A100:0'"),
        ({"gpu": "A100:x"}, "gpu='A100:x'"),
        ({"gpu": []}, "gpu=[]"),
        ({"gpu": ["H100", "no:pe"]}, "gpu='no:pe'"),
        ({"min_containers": -1}, "min_containers=-1"),
        ({"max_containers": 0}, "max_containers=0"),
        ({"min_containers": 3, "max_containers": 2}, "min_containers=3 is more than max_containers=2"),
        ({"buffer_containers": 1.5}, "buffer_containers=1.5"),
        ({"scaledown_window": 1}, "scaledown_window=1"),
        ({"scaledown_window": 3601}, "scaledown_window=3601"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": "3"}, "retries='3'"),
        ({"env": {"A": 1}}, 'env["A"]'),
        ({"env": {"1A": "x"}}, "'1A'"),
        ({"env": ["A=1"]}, "env is not a dict"),
        ({"secrets": {"A": "1"}}, "secrets"),
        ({"image": "debian"}, "image='debian'"),
        ({"schedule": "* * * * *"}, "schedule='* * * * *'"),
        ({"serialized": 1}, "serialized=1"),
        ({"block_network": None}, "block_network=None"),
        ({"include_source": "yes"}, "include_source='yes'"),
        ({"name": "a b"}, "name='a b'"),
        ({"name": "x" * 64}, "name="),
        ({"max_inputs": 2}, "max_inputs=2"),
        ({"memroy": 512}, "'memroy'; did you mean 'memory'?"),
        ({"gpus": "H100"}, "'gpus'; did you mean 'gpu'?"),
        ({"zzz": 1}, "no parameter 'zzz'"),
    ],
)
def test_wrong_parameters_are_named(parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidError) as caught:
        declared(**parameters)
    assert says in str(caught.value)
    assert not isinstance(caught.value, UnsupportedError)


@pytest.mark.parametrize(
    "parameters",
    [
        {"proxy": object()},
        {"i6pn": True},
        {"_experimental_restrict_output": True},
    ],
)
def test_what_is_not_built_is_refused_by_name(parameters: dict[str, Any]) -> None:
    (name,) = parameters
    assert TABLE[name].not_yet is not None
    with pytest.raises(UnsupportedError, match=f"{name}=.* is not supported yet"):
        declared(**parameters)


@pytest.mark.parametrize(
    "parameters", [{"cloud": "aws"}, {"region": "eu"}, {"region": ["eu", "us"]}, {"routing_region": "eu"}, {"experimental_options": {"a": "b"}}]
)
def test_what_chooses_in_a_cloud_is_accepted_and_said_to_do_nothing(parameters: dict[str, Any]) -> None:
    (name,) = parameters
    with pytest.warns(UserWarning, match=f"{name}=.* has no effect") as caught:
        declared(**parameters)
    assert caught[0].filename == __file__


def test_a_server_says_its_own_name() -> None:
    app = squall.App()
    with pytest.raises(InvalidError, match=r"^@app.server has no parameter 'memry'; did you mean 'memory'"):
        app.server(memry=1)
    with pytest.warns() as caught:
        app.server(proxy_regions=["us"], keep_warm=1)
    assert [one.filename for one in caught] == [__file__, __file__]
    assert "proxy_regions=['us'] has no effect" in str(caught[0].message)


def test_neutral_values_of_unbuilt_parameters_are_accepted() -> None:
    for name, row in TABLE.items():
        values = row.not_yet or row.no_effect or ()
        for value in values:
            declared(**{name: value})


@pytest.mark.parametrize(
    ("old", "new"), [({"keep_warm": 2}, "min_containers"), ({"concurrency_limit": 2}, "max_containers"), ({"container_idle_timeout": 30}, "scaledown_window")]
)
def test_old_spellings_warn_and_work(old: dict[str, Any], new: str) -> None:
    with pytest.warns(DeprecationError, match=f"{new}=") as caught:
        spec = declared(**old)
    assert caught[0].filename == __file__, "the warning points at the user's line"
    (value,) = old.values()
    assert getattr(spec.scaling, "scaledown_window_s" if new == "scaledown_window" else new) == value


def test_both_spellings_at_once() -> None:
    with pytest.warns(DeprecationError), pytest.raises(InvalidError, match="same parameter"):
        declared(keep_warm=1, min_containers=1)


def test_max_inputs_and_concurrent_inputs() -> None:
    with pytest.warns(DeprecationError, match="single_use_containers"):
        assert declared(max_inputs=1).single_use
    with pytest.warns(DeprecationError, match="concurrent"):
        assert declared(allow_concurrent_inputs=4).concurrency.max_inputs == 4


def test_kinds_of_functions() -> None:
    app = squall.App("unit")
    for raw in (body, generates, waits, generates_async):
        app.function()(raw)
    kinds = {tag: (f._method.is_generator, f._method.is_async) for tag, f in app.registered_functions.items()}
    assert kinds == {"body": (False, False), "generates": (True, False), "waits": (False, True), "generates_async": (True, True)}
    forced = app.function(name="forced", is_generator=True)(body)
    assert forced.is_generator


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (Holder, "@app.cls"),
        (Holder.method, "is a method"),
        (lambda: 1, "defined inside|lambda"),
        (print, "not for"),
        (staticmethod(body), "methods"),
    ],
)
def test_what_is_no_function(wrong: Any, says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        squall.App("unit").function()(wrong)


def test_errors_that_programs_of_the_reference_look_for() -> None:
    app = squall.App("unit")
    with pytest.raises(TypeError, match="cannot be used on a class"):
        app.function()(Holder)
    with pytest.raises(squall.exception.ExecutionError, match="hydrated"):
        app.function()(body).remote()
    for name in ("", "no way", "a" * 65):
        with pytest.raises(InvalidError, match="Invalid App name"):
            squall.App.lookup(name)


def test_local_functions_need_serialized() -> None:
    def inner() -> int:
        return 1

    with pytest.raises(InvalidError, match="serialized=True"):
        squall.App("unit").function()(inner)
    function = squall.App("unit").function(serialized=True)(inner)
    assert function.tag == "inner"
    assert function.local() == 1


def test_decorated_twice() -> None:
    app = squall.App("unit")
    with pytest.raises(InvalidError, match="decorated twice"):
        app.function()(app.function()(body))  # type: ignore[arg-type]


def test_generators_have_no_retries() -> None:
    with pytest.raises(InvalidError, match="retries= of 'generates'"):
        squall.App("unit").function(retries=1)(generates)


def test_duplicate_tags_warn() -> None:
    app = squall.App("unit")
    app.function()(body)
    with pytest.warns(UserWarning, match="declared twice"):
        again = app.function(timeout=5)(body)
    assert app.registered_functions == {"body": again}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        app.function(name="other")(body)


def test_include_keeps_the_other_apps_defaults() -> None:
    other = squall.App("other", image=squall.Image.debian_slim().apt_install("jq"), secrets=[squall.Secret.from_dict({"A": "other"})])
    other.function()(body)
    app = squall.App("unit").include(other)
    spec = app_spec(app, Shipment(), client=Clerk())  # type: ignore[arg-type]
    assert [step.kind for step in spec.images[spec.functions[0].image].steps] == ["debian_slim", "apt_install"]
    assert spec.functions[0].secrets == ("st-1",)


def test_entrypoints() -> None:
    app = squall.App("unit")

    @app.local_entrypoint()
    def main(n: int = 1) -> int:
        return n + 1

    @app.local_entrypoint(name="second")
    def other() -> None: ...

    assert main(2) == 3
    assert [name.rpartition(".")[2] for name in app.registered_entrypoints] == ["main", "second"]
    with pytest.raises(InvalidError, match="parentheses"):
        app.local_entrypoint(name=body)  # type: ignore[arg-type]


def test_secrets_do_not_show_their_values() -> None:
    secret = squall.Secret.from_dict({"TOKEN": "hush"})
    assert "hush" not in repr(secret)
    assert "TOKEN" in repr(secret)
    with pytest.raises(InvalidError) as caught:
        squall.Secret.from_dict({"TOKEN": "hush\0"})
    assert "hush" not in str(caught.value)
    named = squall.Secret.from_name("tokens")
    assert "tokens" in repr(named)
    for wrong in ({}, {"name": ""}, {"name": "x", "required_keys": "T"}):
        with pytest.raises((InvalidError, TypeError)):
            squall.Secret.from_name(**wrong)
    assert b"hush" not in pickle.dumps(secret)


def test_secret_from_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUALL_UNIT", "1")
    app = squall.App("unit", secrets=[squall.Secret.from_local_environ(["SQUALL_UNIT"])])
    app.function()(body)
    clerk = Clerk()
    app_spec(app, Shipment(), client=clerk)  # type: ignore[arg-type]
    assert [command.values for command in clerk.told if isinstance(command, PutSecret)] == [{"SQUALL_UNIT": "1"}]
    with pytest.raises(InvalidError, match="SQUALL_MISSING"):
        squall.Secret.from_local_environ(["SQUALL_MISSING"])


DATA = squall.Volume.from_name("data")


@pytest.mark.parametrize(
    ("volumes", "says"),
    [
        (["/data"], "dict of paths"),
        ({"data": DATA}, "absolute"),
        ({"/a/../b": DATA}, "absolute"),
        ({"/data\0": DATA}, "absolute"),
        ({1: DATA}, "not a path"),
        ({"/": DATA}, "nothing can be mounted"),
        ({"/proc/x": DATA}, "nothing can be mounted"),
        ({"/.squall/lib": DATA}, "nothing can be mounted"),
        ({"/root": DATA}, "nothing can be mounted"),
        ({"/data": "data"}, "no squall.Volume"),
        ({"/data": DATA, "/data/": squall.Volume.from_name("other")}, "twice"),
        ({"/a": DATA, "/b": squall.Volume.from_name("data")}, "once"),
    ],
)
def test_volumes_that_can_not_be_mounted(volumes: Any, says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        declared(volumes=volumes)
    with pytest.raises(InvalidError, match=says):
        squall.App("unit", volumes=volumes)


def test_buckets_and_the_older_kind_are_mounted_too() -> None:
    bucket = squall.CloudBucketMount("bucket", key_prefix="a/")
    assert declared(volumes={"/b": bucket}).buckets == (BucketMount("/b", "bucket", None, "a/"),)
    with pytest.warns(DeprecationError, match="old name of Volume"):
        older = squall.NetworkFileSystem.from_name("nfs")
    app = squall.App("unit")
    app.function(volumes={"/b": bucket}, network_file_systems={"/data": older})(body)
    ((_, declaration),) = app._declared.values()
    assert declaration.volumes == (("/b", bucket), ("/data", older))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"bucket_name": "s3://bucket"}, "bucket_endpoint_url"),
        ({"bucket_name": "b", "bucket_endpoint_url": "r2.example"}, "begins with https"),
        ({"bucket_name": "b", "key_prefix": "/a/"}, "slash"),
        ({"bucket_name": "b", "key_prefix": "a"}, "slash"),
        ({"bucket_name": "b", "key_prefix": "a/../../"}, "slash"),
        ({"bucket_name": "b", "secret": {"A": "1"}}, "squall.Secret"),
        ({"bucket_name": "b", "requester_pays": True}, "secret="),
        ({"bucket_name": "b", "oidc_auth_role_arn": "arn"}, "secret="),
    ],
)
def test_buckets_that_can_not_be(arguments: Any, says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        squall.CloudBucketMount(**arguments)


def test_a_server_has_its_name_and_its_grace() -> None:
    app = squall.App()

    @app.server(name="front", exit_grace_period=30, port=9000, serialized=True)
    class Listening: ...

    assert list(app.registered_classes) == ["front"]
    for parameters, message in (
        ({"exit_grace_period": -1}, "exit_grace_period=-1 is not a number of seconds from 0 to 3600"),
        ({"name": "no name"}, "no name"),
    ):
        with pytest.raises(InvalidError, match=message):
            app.server(**parameters)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="h2_enabled= of @app.server is not supported yet"):
        app.server(h2_enabled=True)
    for parameter in ("target_concurrency", "scaleup_window"):
        with pytest.raises(UnsupportedError, match=f"{parameter}=2 of Server.update_autoscaler is not supported yet"):
            Listening.update_autoscaler(**{parameter: 2})
