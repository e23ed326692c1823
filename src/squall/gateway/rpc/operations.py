"""The table of operations: a row for each command of the wire, written at the function that answers it.

RPC, the commands of the HTTP API and its description, what a token is good for and what code in a container may send all follow from the rows.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from squall.gateway.auth.rights import Right, need
from squall.model.errors import PermissionDeniedError, UnimplementedError
from squall.wire.messages import Answer

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session

C = TypeVar("C", bound=msgspec.Struct)
A = TypeVar("A", bound=Answer)
#: Answers a command of a session; the number is the client's for this request, and goes with events that come before the answer.
Handler = Callable[["Session", int, C], Awaitable[A]]
#: Raises PermissionDeniedError where code in the session's container may not send the command.
ContainerCheck = Callable[["Session", Any], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row."""

    request: type[msgspec.Struct]
    answer: Any
    handler: Handler[Any, Any]
    #: What each command of this kind needs, at least. With READ alone nothing is changed.
    right: Right
    #: What this very command needs, where that depends on its fields.
    exact: Callable[[Any], Right] | None
    #: None: code in a container may not send it.
    container: ContainerCheck | None
    #: It concerns the connection that sends it, so that no HTTP request can stand for it.
    lasting: bool
    #: Its answer may be large: of one client in a container a few are worked at.
    large: bool

    @property
    def name(self) -> str:
        return self.request.__name__

    def needs(self, command: msgspec.Struct) -> Right:
        return self.exact(command) if self.exact is not None else self.right


#: Filled by `operation`; `dispatch` imports the modules that have handlers.
TABLE: dict[type, Operation] = {}


def operation(
    right: Right,
    *,
    exact: Callable[[Any], Right] | None = None,
    container: ContainerCheck | None = None,
    lasting: bool = False,
    large: bool = False,
) -> Callable[[Handler[C, A]], Handler[C, A]]:
    """The function answers the command that its third parameter is annotated with, and this is the rest of the command's row."""

    def add(handler: Handler[C, A]) -> Handler[C, A]:
        request, answer = handler.__annotations__["command"], handler.__annotations__["return"]
        if request in TABLE:
            raise TypeError(f"{request.__name__} is answered by two functions")
        TABLE[request] = Operation(request=request, answer=answer, handler=handler, right=right, exact=exact, container=container, lasting=lasting, large=large)
        return handler

    return add


def find(command: msgspec.Struct) -> Operation:
    """
    Raises:
        UnimplementedError: it is in the protocol and in no row.
    """
    if (row := TABLE.get(type(command))) is None:
        raise UnimplementedError(f"this server does not know {type(command).__name__}")
    return row


def check_right(session: "Session", row: Operation, command: msgspec.Struct) -> None:
    """Whether who is at the other end may send this at all.

    Raises:
        PermissionDeniedError: it may not.
    """
    if not session.container:
        need(row.name, row.needs(command), session.right)
    elif row.container is None:
        raise PermissionDeniedError(f"code in a container may not send {row.name}")
