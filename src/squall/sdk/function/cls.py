"""Cls and Obj: what `@app.cls` makes of a class, and what calling that makes: objects whose methods run in containers."""

import importlib
import inspect
import warnings
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Self

from squall.model.errors import DeprecationError, ExecutionError, InvalidError, UnsupportedError
from squall.model.specs import MethodSpec
from squall.sdk.app.decorators import INTERFACE, LIFECYCLE, Mark, Partial
from squall.sdk.client.dual_method import Dual, ThreadTwin
from squall.sdk.function import parameters, serialize
from squall.sdk.function.autoscaler import tuned, tuning
from squall.sdk.function.function import Function
from squall.sdk.function.handle import Deployed, Handle, Variant
from squall.sdk.function.lifecycle import Hooks, LocalObject, hooks, make_instance
from squall.sdk.function.options import Asked
from squall.sdk.function.variants import WithOptions
from squall.sdk.refusals import NotYet
from squall.sdk.types import FunctionAutoscalerSettings

if TYPE_CHECKING:
    from squall.sdk.app.app import App
    from squall.sdk.client.client import Client


class _Hydrated:
    """What is known of a class once its app runs, or once it was looked up."""

    _handle: Handle
    get_dashboard_url = NotYet()

    @property
    def client(self) -> "Client":
        """Of the server where its calls go."""
        from squall.sdk.client.client import Client

        return self._handle.asked_client() or Client.default()

    @property
    def is_hydrated(self) -> bool:
        """Whether its methods can be called at once: its app runs, or it was looked up."""
        return self._handle.known() is not None

    @property
    def object_id(self) -> str | None:
        """The id of what its methods share, while it is known."""
        return self._handle.known()

    @property
    def hydrate(self) -> Dual[..., Self, Coroutine[Any, Any, Self]]:
        """Look it up now, where that would otherwise happen with the first call; itself. Raises NotFoundError."""
        return Dual(self._hydrate, self._hydrate_aio)

    def _hydrate(self, client: "Client | None" = None) -> Self:
        if client is not None:
            self._handle.use(client)
        self._handle.bound()
        return self

    async def _hydrate_aio(self, client: "Client | None" = None) -> Self:
        import asyncio

        return await asyncio.to_thread(self._hydrate, client)


class Cls(_Hydrated, WithOptions):
    """A class whose methods run in containers that they share. Call it, with its parameters by name, to make an object: ``C(size=3).method.remote()``.

    Each set of parameters has its own pool of containers.
    """

    def __init__(self, raw: type, *, app: "App | None", tag: str, module: str, serialized: bool, handle: Handle | None = None) -> None:
        self._squall_raw = raw
        self._app, self._tag, self._module, self._serialized = app, tag, module, serialized
        self._handle = handle if handle is not None else Handle(tag)
        self._partials = partials_of(raw)
        self._methods = {name: partial.method_spec(name) for name, partial in self._partials.items() if partial.marks & INTERFACE}
        self._parameters = parameters.parameters_of(raw)
        self.__name__, self.__qualname__, self.__doc__, self.__module__ = raw.__name__, raw.__qualname__, raw.__doc__, raw.__module__

    def __repr__(self) -> str:
        return f"<Cls {self._app.name}.{self._tag}>" if self._app is not None and self._app.name else f"<Cls {self._tag}>"

    def __call__(self, *args: Any, **kwargs: Any) -> "Obj":
        return Obj(self, parameters.bind(self._tag, self._parameters, args, kwargs))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_methods" not in self.__dict__:
            raise AttributeError(name)
        if name in self._methods:
            if serialize.pickling.get():  # pickle asks whether a function is found by its name, and these are none
                raise AttributeError(name)
            warnings.warn(f"{self._tag}.{name} without an object is the old way; write {self._tag}().{name}", DeprecationError, stacklevel=2)
            return getattr(self(), name)
        return getattr(self._squall_raw, name)

    def _get_class_service_function(self) -> "Cls":
        """What the methods share; Modal has it under this name, and programs ask whether it is hydrated."""
        return self

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        """``class Child(ThisCls)``: the child of the plain class, to be decorated itself."""
        return (self._squall_raw,)

    def __reduce__(self) -> Any:
        options = self._handle.asked if isinstance(self._handle, Variant) else None
        return _find, (self._module, self._squall_raw.__qualname__, _ByValue(self) if self._serialized else None, options)

    @staticmethod
    def from_name(
        app_name: str, name: str, *, version: int | None = None, environment_name: str | None = None, client: "Client | None" = None
    ) -> "DeployedCls":
        """A class of a deployed app; nothing is looked up before a method is called."""
        if version is not None:
            raise UnsupportedError(f"version={version!r} of Cls.from_name is not supported yet: handles follow the live version")
        return DeployedCls(app_name, name, environment_name, client=client)

    @staticmethod
    def lookup(app_name: str, name: str, *, client: "Client | None" = None, environment_name: str | None = None) -> "DeployedCls":
        """Old spelling of `from_name`."""
        warnings.warn("Cls.lookup is the old spelling of Cls.from_name", DeprecationError, stacklevel=2)
        return DeployedCls(app_name, name, environment_name, client=client)

    def _variant(self, asked: Asked) -> "Cls":
        made = Cls.__new__(Cls)
        made.__dict__.update(self.__dict__)
        made._handle = Variant.on(self._handle, asked)
        return made

    # what the app and the container need

    @property
    def _not_yet(self) -> tuple[str, ...]:
        return tuple(spelled for partial in self._partials.values() for spelled in partial.not_yet())

    @property
    def _specs(self) -> tuple[MethodSpec, ...]:
        return tuple(self._methods.values())

    def _method(self, obj: "Obj", name: str) -> Function[..., Any, Any]:
        return Function(
            self._partials[name].raw, app=self._app, tag=f"{self._tag}.{name}", method=self._methods[name], module=self._module,
            serialized=self._serialized, handle=self._handle, parameters=obj._packed, owner=obj,
        )  # fmt: skip

    def _by_value(self) -> "_ByValue":
        return _ByValue(self)

    def _squall_serve(self, values: Mapping[str, Any]) -> tuple[dict[str, Callable[..., Any]], Hooks, Hooks, Hooks]:
        """In a container: the methods of one object, and what runs around all inputs: before a snapshot, before the first, after the last."""
        instance = make_instance(self._squall_raw, parameters.complete(self._parameters, values))
        obj = Obj(self, dict(values), LocalObject(instance))
        if hasattr(instance, "__dict__"):
            instance.__dict__["_squall_obj"] = obj
        bodies = {name: self._body(name).__get__(instance) for name in self._methods}
        return bodies, *(hooks(kind, self._partials, self._body, instance) for kind in (Mark.ENTER_SNAP, Mark.ENTER, Mark.EXIT))  # type: ignore[return-value]

    def _body(self, name: str) -> Any:
        """The function of that name, of the most derived class: one that replaces a marked method keeps the mark."""
        found = inspect.getattr_static(self._squall_raw, name)
        return found.raw if isinstance(found, Partial) else found


class _Tunable:
    """Objects whose containers can be tuned: each set of parameters has its own."""

    def _place(self) -> tuple["Client", str, bytes]:
        """The server, the function there, the packed parameters."""
        raise NotImplementedError

    @ThreadTwin
    def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: float | None = None,
    ) -> FunctionAutoscalerSettings:
        """Change how many containers this set of parameters has, while the app runs; returns the settings that hold now. None leaves one as it is."""
        client, function, packed = self._place()
        return tuned(client.request(tuning(function, packed, min_containers, max_containers, buffer_containers, scaledown_window)))

    def keep_warm(self, warm_pool_size: int) -> None:
        """Old spelling of ``update_autoscaler(min_containers=)``."""
        warnings.warn("keep_warm(n) is the old spelling of update_autoscaler(min_containers=n)", DeprecationError, stacklevel=2)
        self.update_autoscaler(min_containers=warm_pool_size)


class Obj(_Tunable):
    """An object of a `Cls`, with its parameters. Its methods are Functions; other attributes are those of a local instance."""

    def __init__(self, cls: Cls, values: dict[str, Any], local: LocalObject | None = None) -> None:
        self._cls, self._values, self._packed = cls, values, parameters.pack(values)
        self._local = local

    def _place(self) -> tuple["Client", str, bytes]:
        return *self._cls._handle.bound(), self._packed

    def __repr__(self) -> str:
        return f"<{self._cls._tag}({', '.join(f'{name}={value!r}' for name, value in self._values.items())})>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_cls" not in self.__dict__:
            raise AttributeError(name)
        cls = self._cls
        if name in cls._methods:
            function = self.__dict__[name] = cls._method(self, name)
            return function
        if name in (known := parameters.complete(cls._parameters, self._values)):
            return known[name]
        return getattr(self._here().instance, name)

    def __reduce__(self) -> Any:
        return _make, (self._cls, self._values)

    def _here(self) -> LocalObject:
        """The object of this process, made when first needed; its enter hooks run with the first `local` call."""
        if self._local is None:
            cls = self._cls
            instance = make_instance(cls._squall_raw, parameters.complete(cls._parameters, self._values))
            if hasattr(instance, "__dict__"):
                instance.__dict__["_squall_obj"] = self
            self._local = LocalObject(
                instance, hooks(Mark.ENTER_SNAP, cls._partials, cls._body, instance) + hooks(Mark.ENTER, cls._partials, cls._body, instance)
            )
        return self._local

    def _call_local(self, name: str, args: Any, kwargs: Any) -> Any:
        """Run a method on the local object. A coroutine or an async generator enters it when it is awaited."""
        return self._here().call(self._cls._methods[name], self._cls._body(name), args, kwargs)


class DeployedCls(_Hydrated, WithOptions):
    """A class of a deployed app, known by its name only; looked up when a method of it is first called."""

    def __init__(self, app: str, name: str, environment: str | None = None, asked: Asked | None = None, client: "Client | None" = None) -> None:
        self._names, self._asked, self._client = (app, name, environment), asked, client
        self._deployed = Deployed(app, name, environment, client)
        self._handle = self._deployed if asked is None else Variant.on(self._deployed, asked)

    def __repr__(self) -> str:
        return f"<Cls {'.'.join(self._names[:2])}>"

    def __reduce__(self) -> Any:
        return DeployedCls, (*self._names, self._asked)

    def __call__(self, *args: Any, **values: Any) -> "DeployedObj":
        return DeployedObj(self, args, values)

    def _variant(self, asked: Asked) -> "DeployedCls":
        return DeployedCls(*self._names, asked if self._asked is None else self._asked.and_then(asked), self._client)


class DeployedObj(_Tunable):
    """An object of such a class. Any name may be a method; its parameters are checked when one is first called."""

    def __init__(self, cls: DeployedCls, args: tuple[Any, ...], values: dict[str, Any]) -> None:
        self._cls, self._args, self._values = cls, args, values

    def __getattr__(self, name: str) -> Function[..., Any, Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        tag = f"{self._cls._deployed.tag}.{name}"
        return Function(None, app=None, tag=tag, method=MethodSpec(name), handle=self._cls._handle, parameters=self._packed, owner=self)

    def __reduce__(self) -> Any:
        return DeployedObj, (self._cls, self._args, self._values)

    def _call_local(self, name: str, args: Any, kwargs: Any) -> Any:
        raise ExecutionError(f"the class {self._cls!r} is not in this program: only .remote and its kin can be used")

    def _packed(self) -> bytes:
        deployed = self._cls._deployed
        return parameters.pack(parameters.bind(deployed.tag, deployed.found().parameters, self._args, self._values))

    def _place(self) -> tuple["Client", str, bytes]:
        return *self._cls._handle.bound(), self._packed()


class _ByValue:
    """A Cls that travels with its class, for `serialized=True`."""

    def __init__(self, cls: Cls) -> None:
        self.parts = cls._squall_raw, cls._app, cls._tag, cls._module

    def _cls(self) -> Cls:
        raw, app, tag, module = self.parts
        return Cls(raw, app=app, tag=tag, module=module, serialized=True)

    def _squall_serve(self, values: Mapping[str, Any]) -> Any:
        return self._cls()._squall_serve(values)


def _find(module: str, qualname: str, value: "_ByValue | None", asked: Asked | None) -> Cls:
    """A class that was pickled: this process's own, else the one that came along."""
    found = serialize.find_global(module, qualname)
    if not isinstance(found, Cls):
        found = value._cls() if value is not None else getattr(importlib.import_module(module), qualname)
    assert isinstance(found, Cls)
    return found if asked is None else found._variant(asked)


def _make(cls: Cls, values: dict[str, Any]) -> Obj:
    return Obj(cls, values)


def partials_of(raw: type) -> dict[str, Partial]:
    """What is marked in a class and its bases, in order of definition, bases first."""
    found: dict[str, Partial] = {}
    for owner in reversed(raw.__mro__):
        found.update((name, value) for name, value in vars(owner).items() if isinstance(value, Partial))
    return found


def check_class(raw: object) -> type:
    """The class that `@app.cls()` was put on.

    Raises:
        InvalidError: it is none, has an ``__init__``, or marks that do not go together.
    """
    if isinstance(raw, Partial):
        raw = raw.raw
    if isinstance(raw, Cls):
        raise InvalidError(f"{raw!r} is decorated twice with @app.cls")
    if not isinstance(raw, type):
        raise InvalidError(f"@app.cls is for classes, not for {raw!r}; functions have @app.function")
    marked = partials_of(raw)
    if raw.__init__ is not object.__init__:  # type: ignore[misc]
        raise InvalidError(
            f"{raw.__name__} has an __init__: declare what it takes with squall.parameter(), and move what it does into a method with @squall.enter()"
        )
    for name, partial in marked.items():
        if partial.marks & Mark.CONCURRENT:
            raise InvalidError(f"{raw.__name__}.{name} has @squall.concurrent: that goes on the class, because its methods share containers")
        if not partial.marks & (INTERFACE | LIFECYCLE):
            raise InvalidError(f"{raw.__name__}.{name} is not marked as a method")
    batched = [name for name, partial in marked.items() if partial.marks & Mark.BATCHED]
    if len(batched) > 1:
        raise InvalidError(f"{raw.__name__} has {len(batched)} batched methods ({', '.join(batched)}); a class may have one")
    return raw
