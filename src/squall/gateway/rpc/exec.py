"""Commands that a client runs in a container: its keys go in, what they write comes out."""

import asyncio
from typing import TYPE_CHECKING

from squall.gateway.auth.rights import Right
from squall.gateway.rpc.ids import find_id
from squall.gateway.rpc.operations import operation
from squall.model.errors import NotFoundError
from squall.model.ids import ContainerId
from squall.wire.messages import Exec, Rows, Shown, Typed
from squall.worker.containers.exec_session import Command, Entered

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session

#: Bash where there is one.
SHELL = ("/bin/sh", "-c", 'command -v bash >/dev/null && exec bash "$@"; exec sh "$@"', "sh")


#: In containers of before a restart of the server, which has not written down what they were given.
BASIC = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}


@operation(Right.EVERYTHING)
async def _exec(session: "Session", request: int, command: Exec) -> Rows:
    command.container = await find_id(session, command.container, "ct")
    return Rows(({"status": await _run(session, request, command)},))


async def _run(session: "Session", request: int, wanted: Exec) -> int:
    """Run it to its end, or until the client goes away; its exit status.

    Raises:
        NotFoundError: the container does not run, or ended meanwhile.
        InvalidError: there is no command.
    """
    agent = session.server.agent
    hosted = agent.hosted.get(ContainerId(wanted.container))
    if hosted is None or hosted.container is None or hosted.ended.is_set():
        raise NotFoundError(f"container {wanted.container} does not run")
    shell = (*SHELL, "-i") if wanted.tty else SHELL
    command = Command(
        wanted.argv or shell,
        {**(hosted.env or BASIC), **(hosted.boot.env if hosted.boot is not None else {}), **({"TERM": "xterm-256color"} if wanted.tty else {}), **wanted.env},
        wanted.workdir or hosted.workdir,
        wanted.tty,
        wanted.rows,
        wanted.columns,
    )
    entered: Entered | None = None
    draining: asyncio.Task[None] | None = None

    def shown(stream: int, data: bytes) -> bool:
        nonlocal draining
        session.send(Shown(request, stream, data))
        if session.peer.congested:
            draining = asyncio.get_running_loop().create_task(drained(), name=f"output of a command in {wanted.container}")
            return False
        return True

    async def drained() -> None:
        await session.peer.drain()
        assert entered is not None
        entered.go_on()

    def full(now: bool) -> None:
        """Its client sends no more until there is room: the connection is read no further."""
        if (transport := session.peer.transport) is not None and not transport.is_closing():
            transport.pause_reading() if now else transport.resume_reading()

    def take(typed: Typed) -> None:
        assert entered is not None
        if typed.rows and typed.columns:
            entered.resize(typed.rows, typed.columns)
        if typed.data:
            entered.type(typed.data)
        if typed.end:
            entered.end_of_input()

    entered = await Entered.start(agent.driver, hosted.container, command, shown, full)
    if wanted.typing:
        session.typed(request).taken_by(take)
    else:
        entered.end_of_input()
    try:
        status = await entered.wait()
    finally:
        full(False)
        if draining is not None:
            draining.cancel()
    if hosted.ended.is_set():
        raise NotFoundError(f"container {wanted.container} has ended, and the command with it")
    return status
