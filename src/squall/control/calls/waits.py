"""Who waits for the outcome of an input that is not on the same connection: spawned ones, and those of others, also over a restart of the server."""

import time
from typing import TYPE_CHECKING

from squall.control.calls.input import Caller
from squall.control.faults import fault
from squall.model.errors import Error, NotFoundError, OutputExpiredError
from squall.model.ids import CallId, made_at
from squall.wire.messages import Await, NotReady, Output

if TYPE_CHECKING:
    from squall.control.calls.router import Router

#: No input of a call has this index: it is what a column of the store holds.
INDEX_END = 1 << 63


class Waits:
    """Answers each `Await`: from the inputs that are live, from what ended lately, or from the store."""

    def __init__(self, router: "Router") -> None:
        self._router = router
        #: After a restart: functions whose inputs are not back yet, and who asks for them.
        self._awaited: dict[str, list[tuple[Await, Caller]]] = {}

    def expect(self, function_id: str) -> None:
        """Who asks for inputs of this function waits until they are back."""
        self._awaited.setdefault(function_id, [])

    def recovered(self, function_id: str) -> None:
        """Its inputs of before a restart are back, or will not be: answer who asked for them meanwhile."""
        for message, caller in self._awaited.pop(function_id, ()):
            self.wait_for(message, caller)

    def wait_for(self, message: Await, caller: Caller) -> None:
        """Answer when the input has an outcome, or when the wait is over."""
        item = self._router.inputs.get((message.call, message.index))
        if item is None:
            if (recent := self._router.spawned.recent.get((message.call, message.index))) is not None:
                caller.send(Output(message.request, *recent, message.index))
            else:
                self._router.own(self.look_up(message, caller))
            return
        if message.timeout_s is not None and message.timeout_s <= 0:
            caller.send(NotReady(message.request))
            return
        waiter = (caller, message.request)
        waiters = item.waiters = item.waiters or []
        waiters.append(waiter)
        if message.timeout_s is not None:

            def give_up() -> None:
                if waiter in waiters:
                    waiters.remove(waiter)
                    caller.send(NotReady(message.request))

            self._router.later(message.timeout_s, give_up)

    def is_at_hand(self, message: Await) -> bool:
        """Whether `wait_for` answers, or waits, without a look at the store."""
        key = (message.call, message.index)
        return key in self._router.inputs or key in self._router.spawned.recent

    async def look_up(self, message: Await, caller: Caller, *, again: bool = True) -> None:
        """Answer from the store; wait where it says that the input is on its way."""
        row = await self._router.store.input(CallId(message.call), message.index) if 0 <= message.index < INDEX_END else None
        if row is None:
            caller.send(fault(message.request, self._unknown(message)))
        elif row.state.live:
            if (message.call, message.index) in self._router.inputs:
                self.wait_for(message, caller)
            elif row.function in self._awaited:
                self._awaited[row.function].append((message, caller))
            elif again:  # it may have ended while the answer came
                await self.look_up(message, caller, again=False)
            else:
                caller.send(NotReady(message.request))
        elif row.output is None or row.status is None or (row.expires_at is not None and row.expires_at <= time.time()):
            caller.send(fault(message.request, self._expired(message)))
        else:
            caller.send(Output(message.request, row.status, row.output, message.index))

    def _expired(self, message: Await) -> Error:
        return OutputExpiredError(f"the result of {message.call} is not kept any more: results are kept for {self._router.spawned.kept_s / 86_400:g} days")

    def _unknown(self, message: Await) -> Error:
        """An id says when it was made: a call that is older than results are kept may have been deleted since."""
        made = made_at(message.call)
        if made is not None and made + self._router.spawned.kept_s < time.time():
            return self._expired(message)
        return NotFoundError(f"there is no call {message.call} with an input {message.index}")
