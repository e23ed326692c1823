"""Environment: a space of names for apps, secrets, volumes, dicts and queues."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from squall.model.errors import InvalidError
from squall.sdk.client.client import Client
from squall.sdk.client.dual_method import ThreadTwin
from squall.sdk.client.settings import environment_of
from squall.sdk.client.sync_async import Talk, Twin
from squall.sdk.refusals import NotYet, refuse_given, refuse_unknown
from squall.wire.messages import Rows
from squall.wire.state import CREATE, ENSURE, ENVIRONMENT, LOOK_UP, DropObject, ListObjects, Opened, OpenObject

if TYPE_CHECKING:
    from squall.sdk.app.app import App


class Environment:
    """A handle by name. ``main`` is always there."""

    objects: ClassVar["EnvironmentManager"]
    billing, members, roles = NotYet(), NotYet(), NotYet()
    get_dashboard_url = NotYet()

    def __init__(self, name: str, *, create: bool = False, client: Client | None = None) -> None:
        self._name, self._create, self._client = name, create, client
        self._id = ""

    @classmethod
    def from_name(cls, name: str, *, create_if_missing: bool = False, client: Client | None = None) -> "Environment":
        """The environment of this name, looked for when it is used. Raises InvalidError."""
        if not isinstance(name, str) or not name:
            raise InvalidError(f"name={name!r} is not the name of an environment")
        return cls(name, create=create_if_missing, client=client)

    @classmethod
    def from_context(cls, *, client: Client | None = None) -> "Environment":
        """The one that counts here, of SQUALL_ENVIRONMENT, MODAL_ENVIRONMENT or the settings' file; else ``main``."""
        return cls(environment_of(None, "main"), client=client)

    @property
    def name(self) -> str:
        return self._name

    @property
    def apps(self) -> "EnvironmentApps":
        """``apps.list()``."""
        return EnvironmentApps(self)

    @property
    def object_id(self) -> str:
        """
        Raises:
            InvalidError: not known before `hydrate()`.
        """
        if not self._id:
            raise InvalidError(f"{self!r} was not looked up yet; call hydrate() to know its id")
        return self._id

    @property
    def is_hydrated(self) -> bool:
        """Whether it was looked up."""
        return bool(self._id)

    @property
    def client(self) -> Client:
        return self._client or Client.default()

    @Twin
    def hydrate(self, client: Client | None = None) -> Talk["Environment"]:
        """Look it up now. Raises NotFoundError."""
        if client is not None:
            self._client = client
        opened: Opened = yield OpenObject(ENVIRONMENT, self._name, "", ENSURE if self._create else LOOK_UP)
        self._name, self._id = opened.name, opened.id
        return self

    def __repr__(self) -> str:
        return f"<Environment {self._name}>"


class EnvironmentApps:
    """``environment.apps``."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    @ThreadTwin
    def list(self) -> "list[App]":
        """Handles of the apps that run or are deployed in the environment, as of `App.lookup`. Raises NotFoundError: there is no such environment."""
        from squall.sdk.app.app import App
        from squall.sdk.app.deploy import live_apps

        environment = self._environment.hydrate()
        return [App._of(row["id"], row["name"], environment._client) for row in live_apps(environment.name, environment._client)]


class EnvironmentManager:
    """``Environment.objects``."""

    @property
    def client(self) -> Client:
        return Client.default()

    @Twin
    def create(
        self,
        /,
        name: str,
        *,
        restricted: bool = False,
        default_role: str | None = None,
        experimental_options: dict[str, Any] | None = None,
        client: Client | None = None,
        **unknown: Any,
    ) -> Talk[None]:
        """Create one that everybody who may use the server may use.

        Raises:
            AlreadyExistsError, InvalidError.
            UnsupportedError: `restricted`, `default_role`, `experimental_options`: there are no roles yet.
        """
        refuse_given("Environment.objects.create", restricted=restricted, default_role=default_role, experimental_options=experimental_options)
        refuse_unknown(unknown, ("name", "restricted", "default_role", "client"), "Environment.objects.create")
        yield OpenObject(ENVIRONMENT, name, "", CREATE)

    @Twin
    def delete(self, name: str, *, client: Client | None = None) -> Talk[None]:
        """Delete it with everything that it holds.

        Raises:
            NotFoundError: there is none.
            ConflictError: apps run in it, or it is ``main``.
        """
        yield DropObject(ENVIRONMENT, name)

    @Twin
    def list(self, *, client: Client | None = None) -> Talk[Sequence[Environment]]:
        """All of them."""
        answer: Rows = yield ListObjects(ENVIRONMENT)
        return [Environment(row["name"], client=client) for row in answer.rows]


Environment.objects = EnvironmentManager()
