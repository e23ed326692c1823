"""`import modal` under the alias: every name that programs import is there, in every place they import it from."""

import subprocess
import sys
from typing import Any

import pytest

from squall.compat import old
from squall.compat.submodules import SUBMODULES
from squall.exception import DeprecationError, InvalidError

PROGRAM = "from squall.runner import alias\nalias.install()\nalias.install()\nimport warnings\nwarnings.simplefilter('ignore')\n"


def run(text: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", PROGRAM + text], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "text",
    [
        "import modal; assert modal.App is __import__('squall').App",
        "import modal.exception as e, squall; assert e.InvalidError is squall.exception.InvalidError",
        "from modal import App, Cls, Cron, Dict, Function, FunctionCall, Image, Mount, NetworkFileSystem, Period, Proxy, Queue, Retries, Sandbox, Secret, Stub",
        "from modal import Tunnel, Volume, asgi_app, batched, build, concurrent, current_input_id, enable_output, enter, exit, fastapi_endpoint, forward, gpu",
        "from modal import interact, is_local, method, parameter, web_endpoint, web_server, wsgi_app, CloudBucketMount, FilePatternMatcher, Environment",
        "from modal.functions import Function, FunctionCall, gather",
        "from modal.partial_function import method, enter",
        "from modal.cls import Cls",
        "from modal.volume import Volume; from modal.secret import Secret; from modal.queue import Queue; from modal.dict import Dict",
        "from modal.image import Image; from modal.app import App; from modal.gpu import A100, H100, Any",
        "from modal.config import config, logger; assert config['token_id'] is None",
        "from modal.call_graph import InputInfo, InputStatus; from modal.types import FunctionCurrentStats",
        "from modal.schedule import Cron; from modal.retries import Retries; from modal.sandbox import Sandbox",
        "from modal.stream_type import StreamType; import subprocess; assert StreamType.PIPE == subprocess.PIPE",
        "import modal.experimental; from modal.file_pattern_matcher import FilePatternMatcher",
        "from modal.output import enable_output; from modal.runner import run_app; from modal.exception import DeprecationError",
        "import modal; modal.Function.lookup('a', 'f'); modal.Secret.from_name('x')",
        "import modal, pickle; assert pickle.loads(pickle.dumps(modal.exception.NotFoundError)) is modal.exception.NotFoundError",
        "import modal; assert 'App' in dir(modal) and modal.__version__.split('.')[0] == '1'",
        "from modal import *; App",
        "from modal._utils.deprecation import deprecation_warning; deprecation_warning((2026, 1, 2), 'old')",
        "from modal._call_graph import InputInfo, InputStatus",
        "import modal, cloudpickle; assert cloudpickle.loads(cloudpickle.dumps(modal)) is modal",
        "import modal; modal.Cls._get_class_service_function; modal.Cls.is_hydrated; modal.App._get_container_app()",
        "import modal; from modal import Error; assert Error is modal.exception.Error",
        "from modal.exception import LogsFetchError, SandboxTerminatedError, SnapshotCreationError, WorkspaceManagementError, SandboxFilesystemError",
        "import modal.exception as e; assert issubclass(e.SandboxFilesystemNotFoundError, e.SandboxFilesystemError)",
        "from modal.types import AppInfo, AppState, FunctionInfo, FunctionStats, LogEntry, ServerInfo, WorkspaceSettings, InputInfo, SandboxStats",
        "import modal; modal.types.FunctionInfo; import modal.types; modal.types.FileInfo",
        "from modal.container_process import ContainerProcess; from modal.io_streams import StreamReader, StreamWriter",
        "from modal.object import Object; import modal; assert isinstance(modal.Dict.from_name('d'), Object) and not isinstance(1, Object)",
        "from modal.partial_function import PartialFunction; import modal; assert isinstance(modal.method()(lambda self: 1), PartialFunction)",
        "import modal.workspace, modal.cluster, modal.billing; from modal.workspace import Workspace; from modal.cluster import Cluster",
        "from modal.billing import workspace_billing_report",
        "import modal, signal\nmodal.exception.simulate_preemption(0.05)\ntry: signal.pause(); raise SystemExit(1)\nexcept KeyboardInterrupt: pass",
        "from modal.runner import DeployResult, deploy_app, interactive_shell; assert deploy_app.aio",
        "import importlib.util; assert importlib.util.find_spec('modal.nothing') is None and importlib.util.find_spec('modal.app')",
    ],
)
def test_names(text: str) -> None:
    done = run(text)
    assert done.returncode == 0, done.stderr


def test_every_submodule_can_be_imported() -> None:
    done = run("import importlib\n" + "".join(f"importlib.import_module('modal.{name}').__name__\n" for name in SUBMODULES))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["import modal.nothing", "from modal import Nothing", "from modal.app import Nothing"])
def test_what_is_not_there(text: str) -> None:
    assert run(text).returncode == 1


def test_taking_the_name_imports_nothing() -> None:
    done = run("import sys; assert not [name for name in sys.modules if name.startswith(('squall.compat', 'squall.sdk'))]")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", old.REMOVED)
def test_names_whose_meaning_is_gone_say_what_to_do(name: str) -> None:
    removed: Any = old.REMOVED[name]
    for use in (removed, lambda: removed.from_local_dir("x")):
        with pytest.raises(InvalidError, match=f"{name} is gone: "):
            use()


def test_parameters_whose_meaning_is_gone() -> None:
    import squall

    with pytest.raises(InvalidError, match="mounts= of @app.function is gone: add local files to the image"):
        squall.App("x").function(mounts=[object()])
    with pytest.warns(DeprecationError, match="leave it out"):
        squall.App("x").function(mounts=[])
    with pytest.warns(DeprecationError, match="secrets="):
        squall.App("x").function(secret=squall.Secret.from_dict({}))
