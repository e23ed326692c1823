"""What is asked of the server about secrets; apart from `secret`, so that declaring one loads nothing."""

from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any

from squall.model.errors import AlreadyExistsError, InvalidError, NotFoundError
from squall.sdk.client.client import Client
from squall.sdk.client.dual_method import Dual
from squall.sdk.client.settings import environment_of
from squall.sdk.client.sync_async import Talk, Twin
from squall.sdk.storage.named_objects import before
from squall.sdk.storage.secret import Secret, check_variables
from squall.sdk.types import SecretInfo
from squall.wire.messages import Rows
from squall.wire.state import LOOK_UP, MERGE, REFUSE, SECRET, DropObject, ListObjects, Opened, OpenObject, PutSecret


class SecretManager:
    """``Secret.objects``."""

    @property
    def client(self) -> Client:
        return Client.default()

    @Twin
    def create(
        self, name: str, env_dict: Mapping[str, str], *, allow_existing: bool = False, environment_name: str | None = None, client: Client | None = None
    ) -> Talk[None]:
        """Create a named secret. One that is there is left as it is with `allow_existing`.

        Raises:
            AlreadyExistsError, InvalidError.
        """
        if not isinstance(name, str) or not name:
            raise InvalidError(f"name={name!r} is not the name of a secret")
        try:
            yield PutSecret(check_variables("env_dict", env_dict), name, environment_of(environment_name), REFUSE)
        except AlreadyExistsError:
            if not allow_existing:
                raise

    @Twin
    def delete(self, name: str, *, allow_missing: bool = False, environment_name: str | None = None, client: Client | None = None) -> Talk[None]:
        """Delete it. Containers that run keep the values; new ones do not start. Raises NotFoundError."""
        yield DropObject(SECRET, name, environment_of(environment_name), allow_missing)

    @Twin
    def list(
        self, *, max_objects: int | None = None, created_before: datetime | str | None = None, environment_name: str = "", client: Client | None = None
    ) -> Talk[list[Secret]]:
        """Named secrets, newest first."""
        answer: Rows = yield ListObjects(SECRET, environment_of(environment_name, "main"))
        return [Secret.from_name(row["name"], environment_name=row["environment"], client=client) for row in before(answer.rows, created_before)[:max_objects]]


class _Of:
    """Methods of one secret."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret

    @property
    def client(self) -> Client:
        return self._secret.client

    @Twin
    def hydrate(self, client: Client | None = None) -> Talk[Secret]:
        """Raises NotFoundError, InvalidError."""
        secret = self._secret
        if client is not None:
            secret._client = client
        if secret.name:
            opened: Opened = yield OpenObject(SECRET, secret.name, environment_of(secret._environment), LOOK_UP, "", tuple(secret._required))
            secret._id = opened.id
        elif secret._inline:
            opened = yield PutSecret(secret._inline, "", environment_of(secret._environment))
            secret._id = opened.id
        return secret

    @Twin
    def info(self, *, refresh: bool = False) -> Talk[SecretInfo]:
        """Asked anew each time, whatever `refresh` says. Raises NotFoundError, InvalidError."""
        if not isinstance(refresh, bool):
            raise InvalidError(f"refresh={refresh!r} is not True or False")
        if not self._secret.name:
            raise InvalidError(f"{self._secret!r} has no name: only of a named secret is anything known")
        environment = environment_of(self._secret._environment, "main")
        answer: Rows = yield ListObjects(SECRET, environment)
        for row in answer.rows:
            if row["name"] == self._secret.name:
                used = None if row["used_at"] is None else _time(row["used_at"])
                return SecretInfo(row["name"], row["environment"], _time(row["created_at"]), None, used)
        raise NotFoundError(f"there is no secret {self._secret.name!r} in environment {environment!r}")

    @Twin
    def update(self, env_dict: Mapping[str, str]) -> Talk[None]:
        """Raises NotFoundError."""
        if not self._secret.name:
            raise InvalidError(f"{self._secret!r} has no name: only a named secret can be updated")
        yield PutSecret(check_variables("env_dict", env_dict), self._secret.name, environment_of(self._secret._environment), MERGE)


def info_of(secret: Secret) -> Dual[..., SecretInfo, Coroutine[Any, Any, SecretInfo]]:
    """`Secret.info`."""
    return _Of(secret).info


def hydrate_of(secret: Secret) -> Dual[..., Secret, Coroutine[Any, Any, Secret]]:
    """`Secret.hydrate`."""
    return _Of(secret).hydrate


def update_of(secret: Secret) -> Dual[..., None, Coroutine[Any, Any, None]]:
    """`Secret.update`."""
    return _Of(secret).update


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
