"""Named objects: secrets, volumes, dicts, queues and environments by kind, environment and name, and each made once even when asked for twice at a time."""

import os
import re
import time

from squall.model.errors import AlreadyExistsError, InvalidError, NotFoundError
from squall.model.ids import make_id
from squall.store.contract import Store
from squall.store.objects import ObjectRow
from squall.wire.state import CREATE, DICT, ENSURE, ENVIRONMENT, LOOK_UP, QUEUE, SECRET, VOLUME

PREFIXES = {SECRET: "st", VOLUME: "vo", DICT: "di", QUEUE: "qu", ENVIRONMENT: "en"}

_NAME = re.compile(r"[A-Za-z0-9._-]{1,63}")
_ID = re.compile(r"[a-z]{2}-[0-9a-f]{32}")


def check_name(kind: str, name: str) -> None:
    """
    Raises:
        InvalidError: not letters, digits, ``-``, ``.``, ``_``, fewer than 64, or of the form of an id.
    """
    if kind not in PREFIXES:
        raise InvalidError(f"there is no kind of object {kind!r}")
    if _NAME.fullmatch(name) is None or _ID.fullmatch(name) is not None or not name.strip("."):
        raise InvalidError(f"{name!r} is no name for a {kind}: letters, digits, '-', '.', '_', fewer than 64 characters, not of the form of an id")


def check_app_name(name: str) -> str:
    """The name.

    Raises:
        InvalidError: as `check_name`.
    """
    if _NAME.fullmatch(name) is None or not name.strip("."):
        raise InvalidError(f"{name!r} is no name for an app: letters, digits, '-', '.', '_', fewer than 64 characters")
    return name


def new_id(kind: str) -> str:
    """A fresh id for an object."""
    return make_id(PREFIXES[kind], time.time_ns() // 1_000_000, os.urandom(10))


class Names:
    """Rows of named objects in the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def open(self, kind: str, environment: str, name: str, mode: int, data: bytes = b"", object_id: str = "") -> tuple[ObjectRow, bool]:
        """The object, and whether it was made now. `mode` is LOOK_UP, ENSURE or CREATE.

        Raises:
            NotFoundError, AlreadyExistsError, InvalidError: by the mode, or a name that can't be one.
        """
        check_name(kind, name)
        row = await self.store.object(kind, environment, name)
        if row is not None and mode == CREATE:
            raise AlreadyExistsError(f"there is a {kind} {name!r} in environment {environment!r} already")
        if row is not None:
            return row, False
        if mode == LOOK_UP:
            raise NotFoundError(missing(kind, environment, name))
        if mode not in (ENSURE, CREATE):
            raise InvalidError(f"mode {mode}")
        wanted = ObjectRow(object_id or new_id(kind), kind, environment, name, time.time(), data)
        row = await self.store.create_object(wanted)
        if row.id != wanted.id and mode == CREATE:
            raise AlreadyExistsError(f"there is a {kind} {name!r} in environment {environment!r} already")
        return row, row.id == wanted.id

    async def by_id(self, kind: str, object_id: str) -> ObjectRow:
        """
        Raises:
            NotFoundError: no such object, or of another kind.
        """
        row = await self.store.object_by_id(object_id)
        if row is None or row.kind != kind:
            raise NotFoundError(f"there is no {kind} {object_id}; it was deleted, or it was ephemeral and has ended")
        return row

    async def rename(self, kind: str, environment: str, old: str, new: str) -> None:
        """
        Raises:
            NotFoundError, AlreadyExistsError, InvalidError.
        """
        check_name(kind, new)
        row, _ = await self.open(kind, environment, old, LOOK_UP)
        if not await self.store.rename_object(row.id, new):
            raise AlreadyExistsError(f"there is a {kind} {new!r} in environment {environment!r} already")


def missing(kind: str, environment: str, name: str) -> str:
    """What to say when a named object is not there."""
    how = f"squall {kind} create {name}" + ("" if environment in ("", "main") else f" --env {environment}")
    ensure = "  or  create_if_missing=True" if kind in (VOLUME, DICT, QUEUE) else ""
    where = "" if kind == ENVIRONMENT else f" in environment {environment!r}"
    return f"there is no {kind} {name!r}{where}; make it with  {how}{ensure}"
