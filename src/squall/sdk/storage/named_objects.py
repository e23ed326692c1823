"""What Volume, Dict and Queue have in common: they are found by name or id when first used, or made for the time of a ``with`` block."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

from squall.model.errors import InvalidError
from squall.runner.context import in_container
from squall.sdk.client.client import Client, Connection, request_on
from squall.sdk.client.dual_method import Dual
from squall.sdk.client.settings import environment_of
from squall.sdk.client.sync_async import Talk, Twin
from squall.sdk.refusals import NotYet, refuse_unknown
from squall.sdk.storage.sizes import parse_size
from squall.wire.messages import Rows
from squall.wire.state import CREATE, ENSURE, LOOK_UP, DropObject, ListObjects, Opened, OpenObject

T = TypeVar("T", bound="StoredObject")


class StoredObject:
    """A handle. Nothing is asked of the server before it is used; it can be pickled and passed to functions."""

    _kind: ClassVar[str]
    _prefix: ClassVar[str]
    _info: ClassVar[Any]
    get_dashboard_url = NotYet()

    def __init__(self) -> None:
        raise InvalidError(f'make it by name: {type(self).__name__}.from_name("my-{self._kind}", create_if_missing=True)')

    @classmethod
    def _make(cls, *, name: str = "", environment: str | None = None, create: bool = False, object_id: str = "", client: Client | None = None) -> Self:
        made = cls.__new__(cls)
        made._name, made._environment, made._create, made._client = name, environment, create, client
        made._id = object_id
        made._opened = None
        return made

    _name: str
    _environment: str | None
    _create: bool
    _client: Client | None
    _id: str
    _opened: Opened | None
    _quota: int | None = None  # of volumes
    _declared = False  # whether a function mounts it

    @classmethod
    def from_name(cls, name: str, *, environment_name: str | None = None, create_if_missing: bool = False, client: Client | None = None) -> Self:
        """The object of this name. Looked for when it is first used.

        Args:
            environment_name: by default that of SQUALL_ENVIRONMENT or MODAL_ENVIRONMENT, in a container that of its app, else ``main``.
            create_if_missing: make it when it is not there.

        Raises:
            InvalidError: `name` is no text. A name that can't be one is refused at first use.
        """
        if not isinstance(name, str) or not name:
            raise InvalidError(f"name={name!r} is not the name of a {cls._kind}")
        return cls._make(name=name, environment=environment_name, create=create_if_missing, client=client)

    @classmethod
    def _of_id(cls, object_id: str, client: Client | None = None) -> Self:
        """The object of an id. Raises InvalidError when it is none of this kind."""
        if not isinstance(object_id, str) or not object_id.startswith(f"{cls._prefix}-"):
            raise InvalidError(f"{object_id!r} is no id of a {cls._kind}: they begin with {cls._prefix}-")
        return cls._make(object_id=object_id, client=client)

    @classmethod
    def lookup(cls, name: str, *, environment_name: str | None = None, create_if_missing: bool = False, client: Client | None = None) -> Self:
        """Old spelling of `from_name`."""
        import warnings

        from squall.model.errors import DeprecationError

        warnings.warn(f"{cls.__name__}.lookup is the old spelling of {cls.__name__}.from_name", DeprecationError, stacklevel=2)
        return cls.from_name(name, environment_name=environment_name, create_if_missing=create_if_missing, client=client)

    @classmethod
    def _check_options(cls, method: str, unknown: Mapping[str, Any], known: Sequence[str]) -> None:
        """Of a method that not all kinds have the same parameters for. Raises InvalidError, UnsupportedError."""
        refuse_unknown(unknown, known, f"{cls.__name__}.{method}")

    @property
    def client(self) -> Client:
        return self._client or Client.default()

    @property
    def name(self) -> str | None:
        """The name it was made by, or that is known of it."""
        return self._name or None

    @property
    def object_id(self) -> str:
        """
        Raises:
            InvalidError: not known before the first use, or `hydrate()`.
        """
        if not self._id:
            raise InvalidError(f"{self!r} was not used yet; call hydrate() to know its id")
        return self._id

    @property
    def is_hydrated(self) -> bool:
        """Whether it was found already. In a container a volume of the app's functions was, and its id is asked for."""
        if not self._id and self._declared and in_container():
            self.hydrate()
        return bool(self._id)

    @Twin
    def hydrate(self, client: Client | None = None) -> Talk[Any]:
        """Look it up now. Raises NotFoundError."""
        if client is not None and client is not self._client:
            self._client, self._opened = client, None
        yield from self._open()
        return self

    @Twin
    def info(self) -> Talk[Any]:
        """Name and time of creation: a VolumeInfo, DictInfo or QueueInfo."""
        opened = yield from self._open()
        return self._info(opened.name or None, _time(opened.created_at))

    def _find(self) -> Talk[str]:
        """Its id, looked up if it is not known."""
        if not self._id:
            yield from self._open()
        return self._id

    def _open(self, environment: str | None = None) -> Talk[Opened]:
        if self._opened is None:
            where = environment_of(self._environment or environment)
            known = "" if self._name else self._id  # by its name, where it has one: another server has another id for it
            found: Opened = yield OpenObject(self._kind, self._name, where, ENSURE if self._create else LOOK_UP, known, (), self._quota)
            self._opened, self._id = found, found.id
            self._name = self._name or found.name
        return self._opened

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name or self._id or 'ephemeral'}>"

    def __reduce__(self) -> Any:
        if self._name:
            return _by_name, (type(self), self._name, self._environment, self._create, self._state())
        return _by_id, (type(self), self._id, self._state())

    def _state(self) -> dict[str, Any]:
        """What else of the handle is pickled."""
        return {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredObject) or type(other) is not type(self):
            return NotImplemented
        if self._name or other._name:
            return (self._name, self._environment) == (other._name, other._environment)
        return self._id == other._id

    def __hash__(self) -> int:
        return hash((type(self), self._name or self._id))


def _by_name(kind: type[T], name: str, environment: str | None, create: bool, state: dict[str, Any]) -> T:
    made = kind._make(name=name, environment=environment, create=create)
    made.__dict__.update(state)
    return made


def _by_id(kind: type[T], object_id: str, state: dict[str, Any]) -> T:
    made = kind._make(object_id=object_id)
    made.__dict__.update(state)
    return made


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


class Ephemeral(Generic[T]):
    """``with Dict.ephemeral() as d:`` The object lasts as long as the block. If this process dies, the server ends it soon after.

    The connection that made it stays open meanwhile: it is how the server knows.
    """

    def __init__(self, kind: type[T], client: Client | None, environment: str | None) -> None:
        self._kind, self._client, self._environment = kind, client, environment
        self._connection: Connection | None = None
        self._id = ""

    def __enter__(self) -> T:
        client = self._client or Client.default()
        connection = client.connect()
        try:
            opened = request_on(connection, OpenObject(self._kind._kind, "", environment_of(self._environment)))
        except BaseException:
            connection.close()
            raise
        assert isinstance(opened, Opened)
        self._connection, self._id = connection, opened.id
        return self._kind._make(object_id=opened.id, client=self._client)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            request_on(connection, DropObject(self._kind._kind, id=self._id, allow_missing=True))
        except (OSError, EOFError):
            pass  # the server is gone, and the object with it
        finally:
            connection.close()

    async def __aenter__(self) -> T:
        import asyncio

        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        import asyncio

        await asyncio.shield(asyncio.to_thread(self.__exit__, kind, error, trace))


class EphemeralMethod:
    """``ephemeral(...)`` and ``ephemeral.aio(...)`` of a class: the same block, for `with` and for `async with`."""

    def __get__(self, instance: object, owner: type[T]) -> Dual[..., Ephemeral[T], Ephemeral[T]]:
        def make(
            client: Client | None = None,
            environment_name: str | None = None,
            version: int | None = None,
            create_options: Any = None,
            _heartbeat_sleep: float = 300,
            **unknown: Any,
        ) -> Ephemeral[T]:
            owner._check_options("ephemeral", {**unknown, **_given(version=version, create_options=create_options)}, ("client", "environment_name"))
            if _heartbeat_sleep != 300:
                raise InvalidError("_heartbeat_sleep= of .ephemeral has no meaning here: the open connection says that the program lives; leave it out")
            return Ephemeral(owner, client, environment_name)

        return Dual(make, make)


class Manager(Generic[T]):
    """``Dict.objects`` and so on: create, list and delete by name."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind

    @property
    def client(self) -> Client:
        return Client.default()

    @Twin
    def create(
        self,
        /,
        name: str,
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
        version: int | None = None,
        experimental_options: Any = None,
        quota: int | str | None = None,
        **unknown: Any,
    ) -> Talk[None]:
        """Create a named object. `version`, `experimental_options`, `quota`: of a volume, see `Volume.from_name`.

        Raises:
            AlreadyExistsError: the name is taken, and not `allow_existing`.
            InvalidError: a parameter that there is not.
        """
        own = _given(version=version, experimental_options=experimental_options)
        self._kind._check_options("objects.create", {**unknown, **own}, ("name", "allow_existing", "environment_name", "client"))
        if quota is not None and self._kind._kind != "volume":
            raise InvalidError(f"quota= is of volumes; a {self._kind._kind} has none")
        mode = ENSURE if allow_existing else CREATE
        yield OpenObject(self._kind._kind, name, environment_of(environment_name), mode, quota_bytes=None if quota is None else parse_size("quota", quota))

    @Twin
    def delete(self, name: str, *, allow_missing: bool = False, environment_name: str | None = None, client: Client | None = None) -> Talk[None]:
        """Delete it with all that it holds.

        Raises:
            NotFoundError: there is none, and not `allow_missing`.
        """
        yield DropObject(self._kind._kind, name, environment_of(environment_name), allow_missing)

    @Twin
    def list(
        self, *, max_objects: int | None = None, created_before: datetime | str | None = None, environment_name: str = "", client: Client | None = None
    ) -> Talk["Sequence[T]"]:
        """Handles of the named objects, newest first."""
        answer: Rows = yield ListObjects(self._kind._kind, environment_of(environment_name, "main"))
        rows = before(answer.rows, created_before)[:max_objects]
        return [self._kind._make(name=row["name"], environment=row["environment"], object_id=row["id"], client=client) for row in rows]


def _given(**options: Any) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in options.items() if value is not None}


def before(rows: Sequence[dict[str, Any]], created_before: datetime | str | None) -> list[dict[str, Any]]:
    """Rows of objects that were made earlier."""
    if created_before is None:
        return list(rows)
    moment = datetime.fromisoformat(created_before) if isinstance(created_before, str) else created_before
    limit = (moment if moment.tzinfo is not None else moment.astimezone()).timestamp()
    return [row for row in rows if row["created_at"] < limit]
