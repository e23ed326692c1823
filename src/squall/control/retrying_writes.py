"""Writes that nobody can repeat later: they are tried again while the disk has no room."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from squall.model.errors import ResourceExhaustedError
from squall.model.ids import AppId, FunctionId, ImageId
from squall.model.states import ContainerState
from squall.store.rows import ContainerRow

if TYPE_CHECKING:
    from squall.control.calls.pool_container import Member
    from squall.store.contract import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Pauses between tries, in seconds: from the first, doubling, up to the second.
PAUSE_FIRST_S, PAUSE_MAX_S = 0.05, 5.0
#: Whoever ends something waits no longer than this for a disk.
ENDING_S = 10.0


async def persist(write: Callable[[], Awaitable[T]], *, limit_s: float | None = None) -> T:
    """The result of the first try that finds room.

    Raises:
        ResourceExhaustedError: there was none for `limit_s` (None: wait for ever).
    """
    loop = asyncio.get_running_loop()
    began, pause = loop.time(), PAUSE_FIRST_S
    while True:
        try:
            return await write()
        except ResourceExhaustedError as error:
            if limit_s is not None and loop.time() - began >= limit_s:
                raise
            if pause == PAUSE_FIRST_S:
                log.warning("trying again: %s", error)
        await asyncio.sleep(pause)
        pause = min(PAUSE_MAX_S, 2 * pause)


def first_row(member: "Member", created: float) -> ContainerRow:
    """What the store is told of a container first. `created`: seconds since the epoch."""
    function = member.pool.function
    return ContainerRow(member.id, AppId(function.app), FunctionId(function.id), ContainerState.STARTING, ImageId(function.image.id), created)


async def record_container(store: "Store", member: "Member", now: Callable[[], float]) -> None:
    """Make a container's row say what the container is. Called after each change; a write that fails delays what it says and loses nothing."""
    if member.recording:
        return
    member.recording = True
    try:
        if member.recorded is None:
            row = first_row(member, now())
            await persist(lambda: store.save_container(row))
            member.recorded = ContainerState.STARTING
        while member.recorded is not member.state:
            member.recorded = await persist(lambda: _set_state(store, member, now()))
    finally:
        member.recording = False


async def _set_state(store: "Store", member: "Member", now: float) -> ContainerState:
    state, pid = member.state, None if member.process is None else member.process.pid
    await store.set_container_state(member.id, state, now, reason=member.reason or None, pid=pid)
    return state
