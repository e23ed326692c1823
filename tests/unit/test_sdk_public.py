"""The public names, and what importing them costs."""

import json
import subprocess
import sys
from typing import Any

import pytest

import squall
from squall.exception import Error
from squall.model import errors
from squall.sdk import experimental


def modules_after(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"], check=True, capture_output=True, text=True
    )
    return set(json.loads(done.stdout))


def test_names_are_frozen() -> None:
    assert squall.__all__ == [
        "App",
        "Client",
        "CloudBucketMount",
        "Cls",
        "Cluster",
        "Cron",
        "Dict",
        "Environment",
        "FilePatternMatcher",
        "Function",
        "FunctionCall",
        "Image",
        "NetworkFileSystem",
        "Period",
        "Probe",
        "Proxy",
        "Queue",
        "Retries",
        "Sandbox",
        "SandboxSnapshot",
        "SchedulerPlacement",
        "Secret",
        "Server",
        "Tunnel",
        "Volume",
        "Workspace",
        "__version__",
        "asgi_app",
        "batched",
        "clustered",
        "concurrent",
        "current_function_call_id",
        "current_input_id",
        "enable_output",
        "enter",
        "exception",
        "exit",
        "experimental",
        "fastapi_endpoint",
        "forward",
        "gpu",
        "interact",
        "is_local",
        "method",
        "parameter",
        "sessioned",
        "types",
        "web_server",
        "wsgi_app",
    ]
    for name in squall.__all__:
        assert getattr(squall, name) is not None
    assert dir(squall) == sorted(squall.__all__)


def test_importing_loads_nothing_else() -> None:
    before = modules_after("pass")
    assert modules_after("import squall") - before == {"squall"}


def test_declaring_loads_nothing_heavy() -> None:
    loaded = modules_after("import squall\napp = squall.App()\nsquall.Image.debian_slim().apt_install('x')")
    heavy = {
        "asyncio",
        "ssl",
        "subprocess",
        "typer",
        "rich",
        "sqlalchemy",
        "alembic",
        "pyroute2",
        "cloudpickle",
        "cronsim",
        "click",
        "uvloop",
        "http.client",
        "argparse",
        "zoneinfo",
    }
    assert loaded & heavy == set()
    assert not {name for name in loaded if name.startswith("squall.") and name.split(".")[1] not in ("sdk", "model", "wire", "runner")}


def test_every_error_is_public() -> None:
    for error in errors.BY_CODE.values():
        assert getattr(squall.exception, error.__name__) is error
        assert error.__name__ in squall.exception.__all__
    assert issubclass(squall.exception.UnsupportedError, Error)


def test_names_of_the_reference_that_are_missing_say_so_when_they_are_used() -> None:
    for use in (
        squall.sessioned,
        lambda: squall.Workspace.from_context().members.list(),
        squall.interact,
        squall.experimental.flash_forward,
    ):
        with pytest.raises(squall.exception.UnsupportedError, match="not supported yet"):
            use()
    with pytest.raises(squall.exception.UnsupportedError, match="proxy="):
        squall.App("unit").function(proxy=squall.Proxy.from_name("p"))
    with pytest.raises(AttributeError, match="no attribute 'Volumes'"):
        squall.Volumes  # noqa: B018


def test_old_gpu_objects() -> None:
    with pytest.warns(squall.exception.DeprecationError, match='gpu="A100-80GB:2"'):
        gpu = squall.gpu.A100(count=2, size="80GB")
    assert str(gpu) == "A100-80GB:2"
    with pytest.warns(squall.exception.DeprecationError):
        assert str(squall.gpu.Any()) == "any"


def test_what_is_not_there_yet_says_so_when_it_is_used() -> None:
    app: Any = squall.App("later")
    function: Any = app.function(serialized=True)(modules_after)

    for use in (
        app.info,
        app.set_tags,
        function.stats,
        function.metrics.schema,
        experimental.set_local_input_concurrency,
    ):
        with pytest.raises(squall.exception.UnsupportedError, match=r"^(App|Function|experimental)\.[a-z_.]+ is not supported yet$"):
            use()
    with pytest.raises(AttributeError, match="'App' object has no attribute 'infos'"):
        _ = app.infos
    assert not hasattr(function, "statistics")


def test_names_of_experimental_are_those_of_modal() -> None:
    assert experimental.Stream.from_name("s") is not None  # a handle, as of others that are not built
    for use in (lambda: experimental.Stream("s"), lambda: experimental.Stream.from_name("s").read(), experimental.http_server):
        with pytest.raises(squall.exception.UnsupportedError, match="not supported yet"):
            use()
    assert issubclass(experimental.IdempotencyConflict, Exception)
    assert not hasattr(experimental, "stop_ap")
