"""`squall shell`: a container with everything that a function has, and in the place of its code a shell."""

import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec

from squall.cli.commands import exec
from squall.cli.program.loader import load
from squall.cli.program.methods import Method
from squall.cli.ui.display import Display
from squall.cli.ui.existing_server import plain_errors, rows
from squall.model.errors import ContainerStartError, InvalidError
from squall.model.specs import AppSpec, Concurrency, MethodSpec, Scaling
from squall.sdk.app.app import App
from squall.sdk.app.entrypoint import LocalEntrypoint
from squall.sdk.client.client import Client
from squall.sdk.image.image import Image
from squall.sdk.storage.secret import Secret
from squall.sdk.storage.volume import Volume
from squall.wire.messages import ImageRequest, ListContainers, ListFunctions, Rows

#: A look at the container on its way costs a tenth of a millisecond.
_LOOK_S = 0.02
#: A container that is not even on its way by then waits for something.
_SAY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """What a shell without a function is to have. `image`: its name, id, or that in a registry."""

    image: str = ""
    add_python: str | None = None
    volumes: Sequence[str] = ()
    local: Sequence[Path] = ()
    secrets: Sequence[str] = ()
    cpu: float | None = None
    memory: int | None = None
    gpu: str | None = None
    cloud: str | None = None
    region: str | None = None
    runtime: str | None = None
    environment: str | None = None

    def given(self) -> list[str]:
        """The flags of this that were given."""
        flags = {"volumes": "--volume", "local": "--add-local", "secrets": "--secret", "add_python": "--add-python"}
        return [flags.get(one.name, f"--{one.name}") for one in fields(self) if one.name != "environment" and getattr(self, one.name)]


def main(reference: str | None, alone: Alone, *, command: str, as_module: bool, pty: bool | None, environment: str | None) -> int:
    """The exit status of the shell, or of `command`.

    Args:
        reference: ``FILE.py::f``, a container's id, or None for an image alone.
    """
    argv = entering_argv(command)
    with plain_errors():
        if reference is not None and (given := alone.given()):
            raise InvalidError(f"{', '.join(given)}: {reference} has what it declares; leave it out for a shell with these, or name the function alone")
        if reference is not None and reference.startswith("ct-"):
            return exec.run(reference, argv, pty=pty)
        app, tag = _of_image(alone) if reference is None else _of_function(reference, as_module=as_module)
        return _run(app, tag, argv, pty=pty, environment=environment)
    raise AssertionError("plain_errors ends the process")


def entering_argv(command: str) -> tuple[str, ...]:
    """A command line for a shell; empty: a shell to type into."""
    return ("/bin/sh", "-c", command) if command else ()


def _of_image(alone: Alone) -> tuple[App, str]:
    app, image = App("shell"), _image(alone)
    for path in alone.local:
        place = f"/mnt/{path.absolute().name}"
        image = image.add_local_dir(path, place) if path.is_dir() else image.add_local_file(path, place)
    declared = app.function(
        name="shell", image=image, serialized=True, cpu=alone.cpu, memory=alone.memory, gpu=alone.gpu, cloud=alone.cloud, region=alone.region,
        runtime=alone.runtime, secrets=[Secret.from_name(name, environment_name=alone.environment) for name in alone.secrets],
        volumes={f"/mnt/{name}": Volume.from_name(name, environment_name=alone.environment) for name in alone.volumes},
    )  # fmt: skip
    declared(_nothing)
    return app, "shell"


def _image(alone: Alone) -> Image:
    if not alone.image:
        if alone.add_python:
            return Image.debian_slim(python_version=alone.add_python)
        return Image.debian_slim()
    if alone.add_python:
        return Image.from_registry(alone.image, add_python=alone.add_python)
    answer = Client.default().request(ImageRequest("list"))  # which starts a server if need be
    assert isinstance(answer, Rows)
    known = {name for row in answer.rows for name in (row["id"], *row["names"])}
    if alone.image in known or f"{alone.image}:latest" in known or alone.image.startswith("im-"):
        return Image.from_name(alone.image)
    return Image.from_registry(alone.image)


def _nothing() -> None: ...


def _of_function(reference: str, *, as_module: bool) -> tuple[App, str]:
    target = load(reference, as_module=as_module)
    if isinstance(target.runs, LocalEntrypoint):
        raise InvalidError(f"{target.name} runs here and has no container; name a function:  squall shell {reference.partition('::')[0]}::FUNCTION")
    return target.app, target.runs.cls._tag if isinstance(target.runs, Method) else target.runs.tag


def _run(app: App, tag: str, argv: tuple[str, ...], *, pty: bool | None, environment: str | None) -> int:
    from squall.sdk.app.run import app_spec
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
            container = _ready(session.app_id, display)
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


def _ready(app: str, display: Display) -> str:
    """The app's one container, when it has started. What it waits for is said.

    Raises:
        ContainerStartError: it has ended instead.
    """
    began, said = time.monotonic(), None
    while True:
        found = rows(ListContainers(app, True))
        for row in found:
            if row["ready_at"] is not None and row["stopped_at"] is None:
                return str(row["id"])
            if row["stopped_at"] is not None:
                raise ContainerStartError(f"the container for the shell has ended: {row['reason'] or 'without a word'}")
        if not found and time.monotonic() - began > _SAY_S:
            (function,) = rows(ListFunctions(app))
            if (reason := function["waits_for"]) not in (None, said):
                said = reason
                display.error(f"• the shell waits for {reason}; Ctrl-C leaves")
        time.sleep(_LOOK_S)
