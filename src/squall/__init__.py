"""Squall: serverless Python functions on your own machines.

Names are loaded when first used, so that `import squall` costs a millisecond. `docs/` explains them; `squall --help` is the command line.
"""

#: As in `typing`, whose import alone would take ten times as long as all of this.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from squall import exception
    from squall.sdk import experimental, gpu, types
    from squall.sdk.app import App
    from squall.sdk.bucket import CloudBucketMount
    from squall.sdk.call import FunctionCall
    from squall.sdk.client import Client
    from squall.sdk.cls import Cls
    from squall.sdk.context import current_function_call_id, current_input_id, is_local
    from squall.sdk.dict import Dict
    from squall.sdk.environment import Environment
    from squall.sdk.function import Function
    from squall.sdk.image import Image
    from squall.sdk.later import (
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
    from squall.sdk.network_file_system import NetworkFileSystem
    from squall.sdk.output import enable_output
    from squall.sdk.parameters import parameter
    from squall.sdk.partial import batched, concurrent, enter, exit, method
    from squall.sdk.patterns import FilePatternMatcher
    from squall.sdk.queue import Queue
    from squall.sdk.retries import Retries
    from squall.sdk.schedule import Cron, Period
    from squall.sdk.secret import Secret
    from squall.sdk.server import Server
    from squall.sdk.volume import Volume
    from squall.sdk.web import asgi_app, fastapi_endpoint, web_server, wsgi_app

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
    "App": "squall.sdk.app",
    "Client": "squall.sdk.client",
    "CloudBucketMount": "squall.sdk.bucket",
    "Cls": "squall.sdk.cls",
    "Cluster": "squall.sdk.later",
    "Cron": "squall.sdk.schedule",
    "Dict": "squall.sdk.dict",
    "Environment": "squall.sdk.environment",
    "FilePatternMatcher": "squall.sdk.patterns",
    "Function": "squall.sdk.function",
    "FunctionCall": "squall.sdk.call",
    "Image": "squall.sdk.image",
    "NetworkFileSystem": "squall.sdk.network_file_system",
    "Period": "squall.sdk.schedule",
    "Probe": "squall.sdk.later",
    "Proxy": "squall.sdk.later",
    "Queue": "squall.sdk.queue",
    "Retries": "squall.sdk.retries",
    "Sandbox": "squall.sdk.later",
    "SandboxSnapshot": "squall.sdk.later",
    "SchedulerPlacement": "squall.sdk.later",
    "Secret": "squall.sdk.secret",
    "Server": "squall.sdk.server",
    "Tunnel": "squall.sdk.later",
    "Volume": "squall.sdk.volume",
    "Workspace": "squall.sdk.later",
    "asgi_app": "squall.sdk.web",
    "batched": "squall.sdk.partial",
    "clustered": "squall.sdk.later",
    "concurrent": "squall.sdk.partial",
    "current_function_call_id": "squall.sdk.context",
    "current_input_id": "squall.sdk.context",
    "enable_output": "squall.sdk.output",
    "enter": "squall.sdk.partial",
    "exit": "squall.sdk.partial",
    "fastapi_endpoint": "squall.sdk.web",
    "forward": "squall.sdk.later",
    "interact": "squall.sdk.later",
    "is_local": "squall.sdk.context",
    "method": "squall.sdk.partial",
    "parameter": "squall.sdk.parameters",
    "sessioned": "squall.sdk.later",
    "web_endpoint": "squall.sdk.later",
    "web_server": "squall.sdk.web",
    "wsgi_app": "squall.sdk.web",
}

_MODULES = {"exception": "squall.exception", "experimental": "squall.sdk.experimental", "gpu": "squall.sdk.gpu", "types": "squall.sdk.types"}


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
