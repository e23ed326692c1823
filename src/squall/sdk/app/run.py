"""An app while it runs: from declarations to a session with the server, and back."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from squall.model.errors import InvalidError, NotFoundError, UnsupportedError
from squall.model.options import FunctionOptions
from squall.model.sizes import sizes_of
from squall.model.specs import AppSpec, Attached, BucketMount, Concurrency, FunctionSpec, ImageSpec, SourceFile, VolumeMount
from squall.runner import alias
from squall.sdk.app.mounts import mount, mount_buckets
from squall.sdk.client.settings import environment_of
from squall.sdk.context import is_local
from squall.sdk.function.cls import Cls
from squall.sdk.function.serialize import pickle_function
from squall.sdk.image.image import FINGERPRINT_VARIABLE, Image
from squall.sdk.image.steps import ReferTo
from squall.sdk.output.output import current_sink
from squall.sdk.source.sources import Shipment, module_files
from squall.sdk.storage.secret import references

if TYPE_CHECKING:
    from squall.sdk.app.app import App
    from squall.sdk.client.client import Client
    from squall.sdk.client.session import Session
    from squall.sdk.function.options import Asked


class AppRun:
    """``app.run(...)``: enter it with `with` or `async with`. The app's functions can be called inside, and nothing of it runs any more afterwards.

    What blocks goes to a thread under `async with`. It can be entered once. Cancelled while entering, it ends what it began.
    """

    def __init__(self, app: "App", *, name: str | None, client: "Client | None", detach: bool, interactive: bool, environment: str | None) -> None:
        if interactive:
            raise UnsupportedError("interactive=True of app.run is not supported yet")
        self._app, self._name, self._client, self._detach = app, name, client, detach
        self._environment = environment_of(environment, "main")
        self._session: Session | None = None
        #: Path in a container -> the local file that was shipped there.
        self.places: dict[str, Path] = {}
        #: Inputs that this program called while it ran; None until it has ended.
        self.calls: int | None = None
        self._called = 0

    def __enter__(self) -> "App":
        """
        Raises:
            InvalidError: the app runs already, or this is a container.
            ImageBuildError: a step of an image failed.
            ConnectionError: no server.
        """
        self._claim()
        try:
            self._open()
        except BaseException:
            self._app._running = None
            raise
        return self._app

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()

    async def __aenter__(self) -> "App":
        import asyncio  # a fifth of what `import squall` and an App cost, and most programs do without

        self._claim()
        opening = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait([opening])
            await asyncio.to_thread(self._close)
            raise
        except BaseException:
            self._app._running = None
            raise
        return self._app

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import asyncio

        await asyncio.shield(asyncio.to_thread(self._close))

    def _claim(self) -> None:
        if not is_local():
            raise InvalidError("app.run() inside a container: the app runs already, call its functions with .remote(...)")
        if self._app._running is not None:
            raise InvalidError(f"App is already running: {self._app!r}. `squall run` starts it by itself, so its local entrypoints need no app.run()")
        self._app._running = self

    def _open(self) -> None:
        from squall.sdk.client.client import Client
        from squall.sdk.client.session import Session

        client = self._client if self._client is not None else Client.default()
        shipment = Shipment()
        spec = app_spec(self._app, shipment, name=self._name, client=client, environment=self._environment)
        self.places = shipment.places
        shipment.upload(client)
        self._called = client.calls
        self._session = Session.open(client, spec, detach=self._detach, environment=self._environment, sink=current_sink())
        self._app._bind(client, self._session.app_id, self._session.functions)

    def _close(self) -> None:
        session, self._session = self._session, None
        self._app._unbind()
        try:
            if session is not None:
                session.close()
                self.calls = session.client.calls - self._called
        finally:
            self._app._running = None


def app_spec(app: "App", shipment: Shipment, *, name: str | None = None, client: "Client | None" = None, environment: str = "") -> AppSpec:
    """Everything that the app declares, as a value; `shipment` takes its local files along. Its secrets and volumes are looked up on the server.

    Raises:
        InvalidError, ModuleNotMountable: a local file can't be shipped.
        SerializationError: a function can't be pickled.
    """
    recipes: list[ImageSpec] = []
    places: dict[bytes, int] = {}
    known: dict[int, int] = {}  # images by identity, because most functions share one
    modules: dict[str, tuple[SourceFile, ...]] = {}
    default = Image.debian_slim()
    unaliased = {} if alias.wanted() else {alias.VARIABLE: "0"}
    functions = []
    for tag, (function, declaration) in app._declared.items():
        image = declaration.image or app._image or default
        if (place := known.get(id(image))) is None:
            recipe = image._spec(shipment, ReferTo(client, environment))
            key = msgspec.msgpack.encode(recipe)
            if (place := places.get(key)) is None:
                place = places[key] = len(recipes)
                recipes.append(recipe)
            known[id(image)] = place
        if function._not_yet:
            raise UnsupportedError(f"{tag} has {' '.join(function._not_yet)}, which is not supported yet: take it away, or run the rest in an app without it")
        raw: Any = function._squall_raw
        module = raw.__module__
        include = app._include_source if declaration.include_source is None else declaration.include_source
        source: dict[str, SourceFile] = {}
        if include and not function._serialized:
            if module not in modules:
                modules[module] = module_files(module, shipment)
            source.update((file.path, file) for file in modules[module])
        source.update((file.path, file) for file in image._attached_files(shipment))
        mounts = tuple({**dict(app._volumes), **dict(declaration.volumes)}.items())
        functions.append(
            FunctionSpec(
                tag=tag,
                module=function._module,
                qualname=raw.__qualname__,
                image=place,
                methods=function._specs,
                is_class=isinstance(function, Cls),
                parameters=function._parameters if isinstance(function, Cls) else (),
                pickled=pickle_function(function._by_value(), tag, module) if function._serialized else None,
                source=tuple(source.values()),
                env={FINGERPRINT_VARIABLE: image._fingerprint, **unaliased, **declaration.env},
                secrets=references(client, (*app._secrets, *declaration.secrets), environment),
                volumes=mount(mounts, environment, client),
                buckets=mount_buckets(mounts, environment, client),
                concurrency=declaration.concurrency or Concurrency(),
                **declaration.fields,
                variants=_attached(function._handle.declared, client, environment),
            )
        )
    shown = name or app.name
    return AppSpec(shown, shown or app.description, tuple(recipes), tuple(functions))


def _attached(declared: "Sequence[Asked]", client: "Client | None", environment: str) -> Attached:
    """What variants of a function have that the program declared. What is not there is left out: whoever calls such a variant is told."""
    secrets: dict[str, None] = {}
    volumes: dict[VolumeMount, None] = {}
    buckets: dict[BucketMount, None] = {}
    sizes: dict[bytes, None] = {}
    for asked in declared:
        try:
            options = asked.resolved(client, environment)
        except NotFoundError:
            continue
        secrets |= dict.fromkeys(options.secrets or ())
        volumes |= dict.fromkeys(options.volumes or ())
        buckets |= dict.fromkeys(options.buckets or ())
        if (size := sizes_of(options)) != FunctionOptions():
            sizes[msgspec.msgpack.encode(size)] = None
    return Attached(tuple(secrets), tuple(volumes), tuple(buckets), tuple(sizes))
