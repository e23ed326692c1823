"""The persistence contract, as a specification: which rows change, in what order, and what is returned.

It holds for every implementation; `tests/contract/test_store.py` is its suite. Three rules stand above the methods:

- **A write that returned is on disk.** Each write is one transaction: all of it or nothing. Writes take effect in the order in which they were called
  from one task. A cancelled write may or may not take effect, but never in part.
- **A read sees every write that had returned before the read began.**
- **Only the holder of the token ends an attempt.** A result, or a return to the queue, with another token than the row's changes nothing and says so.

Every write raises `ResourceExhaustedError` when the disk is full or when too many writes wait, with nothing changed; it may be tried again. After `close`,
every method raises `ClientClosed`.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from squall.model.ids import AppId, CallId, ContainerId, FunctionId
from squall.model.states import AppState, ContainerState
from squall.store.objects import ObjectStore
from squall.store.retention import RetentionStore
from squall.store.rows import AppRow, Claim, ContainerRow, DeploymentRow, EventRow, FunctionRow, InputRow, Outcome, ScheduleRow, Statistics, TokenRow


class Store(ObjectStore, RetentionStore, Protocol):
    """Rows of apps, functions, inputs, containers and events. Times are Unix seconds and come from the caller."""

    async def open(self) -> None:
        """Connect and bring the schema up to date.

        Raises:
            VersionError: the data was written by a newer Squall; nothing was changed.
            DataLossError: what lies there is no database of Squall, or it is damaged.
            InvalidError: the place can't be opened or written to.
            ConflictError: another server has it open for too long.
            ResourceExhaustedError: the disk is full.
        """
        ...

    async def close(self) -> None:
        """Finish the writes and events that wait, then disconnect. Idempotent; finishes when cancelled."""
        ...

    def statistics(self) -> Statistics: ...

    # --- apps and functions ---

    async def save_app(self, row: AppRow) -> None:
        """Insert the row, or replace the one with its id."""
        ...

    async def set_app_state(self, app: AppId, state: AppState, now: float) -> bool:
        """Set the state; STOPPED also sets `stopped_at`. STOPPED is final. Returns whether the row changed: False for an unknown app or the same state."""
        ...

    async def app(self, app: AppId) -> AppRow | None: ...

    async def apps(self, states: Collection[AppState] | None = None) -> list[AppRow]:
        """Those in one of the states (None: all), oldest first."""
        ...

    async def save_functions(self, rows: Sequence[FunctionRow]) -> None:
        """Insert them, or replace those with their ids: all or none."""
        ...

    async def functions(self, app: AppId) -> list[FunctionRow]:
        """In the order of their tags."""
        ...

    async def function(self, function: FunctionId) -> FunctionRow | None: ...

    async def ids_with_prefix(self, kind: str, prefix: str, limit: int) -> list[str]:
        """At most `limit` ids that begin so, in order: of apps (`kind` ``ap``), containers (``ct``) or calls with stored inputs (``fc``). Reads no more."""
        ...

    # --- inputs ---

    async def accept(self, inputs: Sequence[InputRow]) -> int:
        """Take over inputs, all or none; how many were new. One whose (call, index) is known, in whatever state, is left as it is: a client may send again.

        They get rising `sequence` numbers in the order given; the rows' own `sequence` is ignored.
        """
        ...

    async def claim(self, call: CallId, index: int, token: int, now: float) -> bool:
        """Begin an attempt: the row becomes RUNNING with this token, `started_at` is set and `attempts` rises by one.

        The row must be live (QUEUED, or RUNNING: then the attempt before it is fenced off) and its token smaller than this one. Otherwise False, no effect.
        """
        ...

    async def finish(self, call: CallId, index: int, token: int, status: int, output: bytes, now: float, expires_at: float | None) -> bool:
        """End an input with its outcome: OK -> SUCCEEDED, CANCELLED -> CANCELLED, any other status -> FAILED. Its data go: nobody runs it again.

        The row must be live and its token this one; token 0 ends an input that was never claimed. Otherwise False, no effect: the attempt is stale.
        """
        ...

    async def progress(self, claims: Sequence[Claim], outcomes: Sequence[Outcome]) -> list[bool]:
        """Many of `claim`, then many of `finish`, in one write; what `finish` would say to each outcome."""
        ...

    async def requeue(self, call: CallId, index: int, token: int, *, platform: bool) -> bool:
        """End an attempt without an outcome: the row becomes QUEUED again and keeps token and place. `platform`: `platform_retries` rises by one.

        The row must be RUNNING and its token this one. Otherwise False, no effect.
        """
        ...

    async def cancel_call(self, call: CallId, indexes: Collection[int], now: float, expires_at: float | None) -> list[int]:
        """Every live input of the call, or of these indexes of it (empty: all), becomes CANCELLED. Returns the indexes that changed, in order."""
        ...

    async def cancel_functions(self, functions: Collection[FunctionId], now: float, expires_at: float | None) -> int:
        """Every live input of these functions becomes CANCELLED; how many did. For the end of an app, however much waits for it."""
        ...

    async def input(self, call: CallId, index: int) -> InputRow | None: ...

    async def known_inputs(self, keys: Sequence[tuple[str, int]]) -> list[InputRow]:
        """Those of these (call, index) that there are, in any order."""
        ...

    async def call_inputs(self, call: CallId) -> list[InputRow]:
        """By index."""
        ...

    async def pending(self, limit: int, after: int = 0) -> list[InputRow]:
        """At most `limit` live inputs with a `sequence` above `after`, in the order of acceptance: what a restarted server takes up again.

        It is answered in order with the writes: what it shows has not been answered as ended before.
        """
        ...

    async def highest_token(self) -> int:
        """The highest token of a live input, 0 if there is none. A restarted server numbers its attempts from above it."""
        ...

    # --- containers and events ---

    async def save_container(self, row: ContainerRow) -> None:
        """Insert the row, or replace the one with its id."""
        ...

    async def set_container_state(
        self, container: ContainerId, state: ContainerState, now: float, *, reason: str | None = None, pid: int | None = None
    ) -> bool:
        """Set the state. READY sets `ready_at` if it is unset, STOPPED sets `stopped_at`; `reason` and `pid` are set where given.

        STOPPED is final. Returns whether the row changed: False for an unknown or a stopped container.
        """
        ...

    async def containers(self, app: AppId | None = None, *, live_only: bool = False) -> list[ContainerRow]:
        """Of one app or of all, oldest first; `live_only` leaves out the stopped ones."""
        ...

    # --- deployments, schedules, tokens ---

    async def save_deployment(self, row: DeploymentRow) -> None:
        """Insert the row, or replace the one with its id."""
        ...

    async def deployments(self, app: AppId) -> list[DeploymentRow]:
        """Every version of an app, oldest first."""
        ...

    async def save_schedules(self, rows: Sequence[ScheduleRow]) -> None:
        """Insert them, or replace those with their ids: all or none."""
        ...

    async def schedules(self) -> list[ScheduleRow]: ...

    async def save_token(self, row: TokenRow) -> None: ...

    async def tokens(self) -> list[TokenRow]:
        """Oldest first."""
        ...

    async def delete_token(self, token: str) -> bool:
        """Whether there was such a token."""
        ...

    def record(self, events: Sequence[EventRow]) -> None:
        """Keep events, soon and in order, with the next writes. Never waits and never raises: beyond a bound they are dropped and counted."""
        ...

    async def events(self, entity: str) -> list[EventRow]:
        """What is on disk about an entity, in the order of recording."""
        ...

    # --- what became of inputs ---

    async def keep_history(self, now: float, rows: int, data: bytes) -> None:
        """Add a piece of history about so many inputs, which is opaque here. The commit is relaxed: a loss of power may take the last pieces along."""
        ...

    async def history(self, rows: int) -> list[bytes]:
        """The newest pieces that are about so many inputs in all, or a piece more; the oldest of them first."""
        ...

    async def trim_history(self, rows: int, before: float) -> int:
        """Delete the pieces of that time or earlier, and those that `history` of so many would not give; how many."""
        ...
