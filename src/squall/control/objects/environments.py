"""Environments: separate spaces of names. ``main`` is always there."""

import re
import time

from squall.control.objects.named_objects import Names, missing, new_id
from squall.model.errors import AlreadyExistsError, ConflictError, InvalidError, NotFoundError
from squall.store.objects import ObjectRow
from squall.wire.state import ENVIRONMENT

MAIN = "main"

#: The reference's rule: begins alphanumeric, at most 64, not like an id.
_NAME = re.compile(r"(?!en-)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Environments:
    """Which environments there are."""

    def __init__(self, names: Names) -> None:
        self._names, self._store = names, names.store
        self._known = {MAIN}

    async def check(self, name: str) -> str:
        """The environment's name; an empty one is ``main``.

        Raises:
            NotFoundError: there is no such environment.
        """
        name = name or MAIN
        if name not in self._known:
            if await self._store.object(ENVIRONMENT, "", name) is None:
                raise NotFoundError(missing(ENVIRONMENT, "", name))
            self._known.add(name)
        return name

    async def create(self, name: str, *, allow_existing: bool = False) -> ObjectRow:
        """
        Raises:
            InvalidError, AlreadyExistsError.
        """
        if _NAME.fullmatch(name) is None:
            raise InvalidError(f"{name!r} is no name for an environment: letters, digits, '-', '.', '_', at most 64, beginning with a letter or digit, not en-")
        wanted = ObjectRow(new_id(ENVIRONMENT), ENVIRONMENT, "", name, time.time())
        row = wanted if name == MAIN else await self._store.create_object(wanted)
        if (name == MAIN or row.id != wanted.id) and not allow_existing:
            raise AlreadyExistsError(f"there is an environment {name!r} already")
        return row

    async def rows(self) -> list[ObjectRow]:
        """All of them, ``main`` first."""
        return [ObjectRow("en-main", ENVIRONMENT, "", MAIN, 0.0), *await self._store.objects(ENVIRONMENT)]

    async def find(self, name: str) -> ObjectRow:
        """
        Raises:
            NotFoundError, ConflictError: no such environment, or ``main``.
        """
        if name == MAIN:
            raise ConflictError("the environment 'main' can't be deleted")
        row = await self._store.object(ENVIRONMENT, "", name)
        if row is None:
            raise NotFoundError(missing(ENVIRONMENT, "", name))
        return row

    def forget(self, name: str) -> None:
        """It was deleted."""
        self._known.discard(name)
