"""One input on its way: what was asked, who waits for it, and where it is."""

from typing import TYPE_CHECKING, Any, Protocol

from squall.model.errors import Error
from squall.model.states import InputState
from squall.wire.messages import DURABLE, LIVE, Call, Run, Stop

if TYPE_CHECKING:
    from squall.control.members import Member
    from squall.control.pool import Pool


class Asker(Protocol):
    """A client's session, as the router sees it."""

    #: No longer there: what is sent to it is lost.
    gone: bool

    def send(self, message: Any) -> None: ...


class Input:
    """Mutable state of one input. `token` is the current attempt's; 0 while it has none."""

    __slots__ = (
        "asker", "attempts", "call", "claimed", "created", "credit", "doom", "index", "lost", "member", "pool", "readmitted", "request", "started", "state",
        "token", "waiters",
    )  # fmt: skip

    def __init__(self, call: Call, pool: "Pool", asker: Asker | None, now: float) -> None:
        self.call = call
        self.index = call.index
        self.pool = pool
        #: Who holds it (LIVE); None when the store does, or when its client is gone.
        self.asker = asker
        self.request = call.request
        #: Others who wait for its outcome: (session, request). None, not an empty list, for the million that nobody waits for.
        self.waiters: list[tuple[Asker, int]] | None = None
        self.state = InputState.QUEUED
        self.token = 0
        #: The last token that the store was told of.
        self.claimed = 0
        self.member: Member | None = None
        #: Attempts begun, and those of them that the platform lost.
        self.attempts = 0
        self.lost = 0
        #: Its attempt began under a server before this one, which may have told it to stop.
        self.readmitted = False
        #: On the router's clock, seconds.
        self.created = now
        self.started = 0.0
        #: Of a generator: items that its attempt may still send.
        self.credit = 0
        #: Decided while it still runs: what it ends with once its attempt has stopped.
        self.doom: Error | None = None

    @property
    def key(self) -> tuple[str, int]:
        return (self.call.call, self.index)

    @property
    def survives(self) -> bool:
        """Whether a server that is started again takes it up: from the store, or from its client, which sends it again."""
        return True

    @property
    def adrift(self) -> bool:
        """Its client has not come back since a restart, and only that has its arguments."""
        return self.asker is None and self.call.hold == LIVE

    @property
    def durable(self) -> bool:
        return self.call.hold == DURABLE

    def begin(self, member: "Member") -> None:
        """Its attempt begins in this container."""
        call = self.call
        self.credit = call.credit
        member.hosted.send(Run(self.token, call.call, call.index, call.data, call.method, call.credit, self.durable))  # type: ignore[union-attr]

    def halt(self, member: "Member") -> None:
        """Ask its code to stop."""
        if member.hosted is not None:
            member.hosted.interrupt(Stop((self.token,)))
