"""`squall shell`: a container with everything that a function has, and in the place of its code a shell."""

import pickle
import time
from typing import Any

import msgspec

from squall.cli.commands import exec
from squall.cli.program.loader import load
from squall.cli.program.methods import Method
from squall.cli.ui.display import Display
from squall.cli.ui.existing_server import ask, plain_errors
from squall.model.errors import ContainerStartError, InvalidError
from squall.model.specs import AppSpec, Concurrency, MethodSpec, Scaling
from squall.sdk.app.app import App
from squall.sdk.app.entrypoint import LocalEntrypoint
from squall.sdk.image.image import Image
from squall.wire.messages import ListContainers, Rows

#: A look at the container on its way costs a tenth of a millisecond.
_LOOK_S = 0.02


def main(reference: str | None, *, command: str, image: str, as_module: bool, pty: bool | None, environment: str | None) -> int:
    """The exit status of the shell, or of `command`.

    Args:
        reference: ``FILE.py::f``, a container's id, or None for an image alone.
        image: the name or id of an image, where there is no reference.
    """
    argv = entering_argv(command)
    with plain_errors():
        if reference is not None and reference.startswith("ct-"):
            return exec.run(reference, argv, pty=pty)
        app, tag = _of_image(image) if reference is None else _of_function(reference, as_module=as_module)
        return _run(app, tag, argv, pty=pty, environment=environment)
    raise AssertionError("plain_errors ends the process")


def entering_argv(command: str) -> tuple[str, ...]:
    """A command line for a shell; empty: a shell to type into."""
    return ("/bin/sh", "-c", command) if command else ()


def _of_image(image: str) -> tuple[App, str]:
    app = App("shell")
    app.function(name="shell", image=Image.from_name(image) if image else Image.debian_slim(), serialized=True)(_nothing)
    return app, "shell"


def _nothing() -> None: ...


def _of_function(reference: str, *, as_module: bool) -> tuple[App, str]:
    target = load(reference, as_module=as_module)
    if isinstance(target.runs, LocalEntrypoint):
        raise InvalidError(f"{target.name} runs here and has no container; name a function:  squall shell {reference.partition('::')[0]}::FUNCTION")
    return target.app, target.runs.cls._tag if isinstance(target.runs, Method) else target.runs.tag


def _run(app: App, tag: str, argv: tuple[str, ...], *, pty: bool | None, environment: str | None) -> int:
    from squall.sdk.app.run import app_spec
    from squall.sdk.client.client import Client
    from squall.sdk.client.session import Session
    from squall.sdk.client.settings import environment_of
    from squall.sdk.source.sources import Shipment

    display, client, where = Display(quiet=bool(argv)), Client.default(), environment_of(environment, "main")
    try:
        shipment = Shipment()
        spec = _only(app_spec(app, shipment, client=client, environment=where), tag)
        shipment.upload(client)
        session = Session.open(client, spec, environment=where, sink=display)
        try:
            container = _ready(session.app_id)
            display.close()
            return exec.run(container, argv, pty=pty)
        finally:
            session.close()
    finally:
        display.close()


def _only(spec: AppSpec, tag: str) -> AppSpec:
    """The app with this function alone, which has a container at once, and in it nothing to import, so that a module that can't be imported is no hindrance."""
    (function,) = (one for one in spec.functions if one.tag == tag)
    alone = msgspec.structs.replace(
        function, image=0, methods=(MethodSpec(),), is_class=False, parameters=(), pickled=pickle.dumps(print), schedule=None, fork=False, snapshot=False,
        concurrency=Concurrency(), retries=None, scaling=Scaling(min_containers=1, max_containers=1),
    )  # fmt: skip
    return AppSpec(None, f"shell in {tag}", (spec.images[function.image],), (alone,))


def _ready(app: str) -> str:
    """The app's one container, when it has started.

    Raises:
        ContainerStartError: it has ended instead.
    """
    while True:
        answer = ask(ListContainers(app, True))
        assert isinstance(answer, Rows)
        row: dict[str, Any]
        for row in answer.rows:
            if row["ready_at"] is not None and row["stopped_at"] is None:
                return str(row["id"])
            if row["stopped_at"] is not None:
                raise ContainerStartError(f"the container for the shell has ended: {row['reason'] or 'without a word'}")
        time.sleep(_LOOK_S)
