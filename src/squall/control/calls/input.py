"""One input on its way through this server: who waits for it, and how its container is given it."""

from typing import TYPE_CHECKING, Any, Protocol

from squall.core.calls.state import Input
from squall.wire.messages import LIVE, Call, Run, Stop

if TYPE_CHECKING:
    from squall.control.calls.pool import Pool
    from squall.control.calls.pool_container import Member


class Caller(Protocol):
    """A client's session, as the router sees it."""

    #: No longer there: what is sent to it is lost.
    gone: bool

    def send(self, message: Any) -> None: ...


class RoutedInput(Input):
    """An input of a pool."""

    __slots__ = ("caller", "pool", "request", "waiters")

    def __init__(self, call: Call, pool: "Pool", caller: Caller | None, now: float) -> None:
        super().__init__(call, now)
        self.pool = pool
        #: Who holds it (LIVE); None when the store does, or when its client is gone.
        self.caller = caller
        self.request = call.request
        #: Others who wait for its outcome: (session, request). None, not an empty list, for the million that nobody waits for.
        self.waiters: list[tuple[Caller, int]] | None = None

    @property
    def awaiting_resend(self) -> bool:
        return self.caller is None and self.call.hold == LIVE

    @property
    def member(self) -> "Member | None":
        """The container that has it."""
        return self.container  # type: ignore[return-value]

    @property
    def failure(self) -> str | None:
        """Why it failed for whoever looks at it, though its attempt ended as it should."""
        return None

    def begin(self, member: "Member") -> None:
        """Its attempt begins in this container."""
        call = self.call
        self.credit = call.credit
        member.tell(Run(self.token, call.call, call.index, call.data, call.method, call.credit, self.durable))

    def halt(self, member: "Member") -> None:
        """Ask its code to stop."""
        member.tell(Stop((self.token,)))
