"""Squall: serverless Python functions on your own machines.

Names are loaded when first used, so that `import squall` costs a millisecond. `docs/` explains them; `squall --help` is the command line.
"""

#: As in `typing`, whose import alone would take ten times as long as all of this.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from squall import exception
    from squall.sdk import experimental, types
    from squall.sdk.app.app import App
    from squall.sdk.app.decorators import batched, concurrent, enter, exit, method
    from squall.sdk.app.schedule import Cron, Period
    from squall.sdk.app.server import Server
    from squall.sdk.app.web import asgi_app, fastapi_endpoint, web_server, wsgi_app
    from squall.sdk.client.client import Client
    from squall.sdk.context import current_function_call_id, current_input_id, is_local
    from squall.sdk.function import gpu
    from squall.sdk.function.call import FunctionCall
    from squall.sdk.function.cls import Cls
    from squall.sdk.function.function import Function
    from squall.sdk.function.parameters import parameter
    from squall.sdk.function.retries import Retries
    from squall.sdk.image.image import Image
    from squall.sdk.output.output import enable_output
    from squall.sdk.source.patterns import FilePatternMatcher
    from squall.sdk.storage.bucket import CloudBucketMount
    from squall.sdk.storage.dict import Dict
    from squall.sdk.storage.environment import Environment
    from squall.sdk.storage.network_file_system import NetworkFileSystem
    from squall.sdk.storage.queue import Queue
    from squall.sdk.storage.secret import Secret
    from squall.sdk.storage.volume import Volume
    from squall.sdk.unsupported import (
        Cluster,
        Probe,
        Proxy,
        Sandbox,
        SandboxSnapshot,
        SchedulerPlacement,
        Tunnel,
        Workspace,
        clustered,
        forward,
        interact,
        sessioned,
    )

__version__ = "0.1.0"

__all__ = [
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

#: Public name -> the module that has it.
_HOMES = {
    "App": "squall.sdk.app.app",
    "Client": "squall.sdk.client.client",
    "CloudBucketMount": "squall.sdk.storage.bucket",
    "Cls": "squall.sdk.function.cls",
    "Cluster": "squall.sdk.unsupported",
    "Cron": "squall.sdk.app.schedule",
    "Dict": "squall.sdk.storage.dict",
    "Environment": "squall.sdk.storage.environment",
    "FilePatternMatcher": "squall.sdk.source.patterns",
    "Function": "squall.sdk.function.function",
    "FunctionCall": "squall.sdk.function.call",
    "Image": "squall.sdk.image.image",
    "NetworkFileSystem": "squall.sdk.storage.network_file_system",
    "Period": "squall.sdk.app.schedule",
    "Probe": "squall.sdk.unsupported",
    "Proxy": "squall.sdk.unsupported",
    "Queue": "squall.sdk.storage.queue",
    "Retries": "squall.sdk.function.retries",
    "Sandbox": "squall.sdk.unsupported",
    "SandboxSnapshot": "squall.sdk.unsupported",
    "SchedulerPlacement": "squall.sdk.unsupported",
    "Secret": "squall.sdk.storage.secret",
    "Server": "squall.sdk.app.server",
    "Tunnel": "squall.sdk.unsupported",
    "Volume": "squall.sdk.storage.volume",
    "Workspace": "squall.sdk.unsupported",
    "asgi_app": "squall.sdk.app.web",
    "batched": "squall.sdk.app.decorators",
    "clustered": "squall.sdk.unsupported",
    "concurrent": "squall.sdk.app.decorators",
    "current_function_call_id": "squall.sdk.context",
    "current_input_id": "squall.sdk.context",
    "enable_output": "squall.sdk.output.output",
    "enter": "squall.sdk.app.decorators",
    "exit": "squall.sdk.app.decorators",
    "fastapi_endpoint": "squall.sdk.app.web",
    "forward": "squall.sdk.unsupported",
    "interact": "squall.sdk.unsupported",
    "is_local": "squall.sdk.context",
    "method": "squall.sdk.app.decorators",
    "parameter": "squall.sdk.function.parameters",
    "sessioned": "squall.sdk.unsupported",
    "web_endpoint": "squall.sdk.unsupported",
    "web_server": "squall.sdk.app.web",
    "wsgi_app": "squall.sdk.app.web",
}

_MODULES = {"exception": "squall.exception", "experimental": "squall.sdk.experimental", "gpu": "squall.sdk.function.gpu", "types": "squall.sdk.types"}


def __getattr__(name: str) -> object:
    import importlib

    if (home := _HOMES.get(name)) is not None:
        value: object = getattr(importlib.import_module(home), name)
    elif (module := _MODULES.get(name)) is not None:
        value = importlib.import_module(module)
    else:
        raise AttributeError(f"module 'squall' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
