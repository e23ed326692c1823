"""FunctionCall: the handle of a call that was started without waiting."""

import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from squall.model.errors import ClientClosed, InvalidError, OutputExpiredError, rebuild
from squall.model.ids import input_id
from squall.sdk.client.client import BROKEN, Client, warn_if_in_loop
from squall.sdk.client.dual_method import Dual, ThreadTwin, at_once
from squall.sdk.function.results import value_of
from squall.sdk.refusals import NotYet
from squall.sdk.types import InputInfo, InputStatus
from squall.wire.messages import Await, Cancel, Fault, ListInputs, NotReady, Output, Rows

if TYPE_CHECKING:
    from squall.sdk.function.logs import CallLogs

R = TypeVar("R")


class FunctionCall(Generic[R]):
    """A call by its ``fc-…`` id. Results of spawned calls are kept for seven days.

    `get` waits for the value; `cancel` stops it. Each has an `.aio` twin.
    """

    get_dashboard_url = NotYet()

    def __init__(self, call_id: str, client: Client, inputs: int | None = None) -> None:
        self.object_id = call_id
        #: Of the server that has it.
        self.client = self._client = client
        self._inputs = inputs
        self.get: Dual[..., R, Coroutine[Any, Any, R]] = Dual(self._get, self._get_aio)
        self.num_inputs: Dual[[], int, Coroutine[Any, Any, int]] = Dual(self._num_inputs, self._num_inputs_aio)
        self.iter: Dual[..., Iterator[R], AsyncIterator[R]] = Dual(self._iter, self._iter_aio)
        self.get_call_graph: Dual[[], list[InputInfo], Coroutine[Any, Any, list[InputInfo]]] = Dual(self._call_graph, self._call_graph_aio)
        self.cancel: Dual[..., None, Coroutine[Any, Any, None]] = Dual(self._cancel, self._cancel_aio)

    def __repr__(self) -> str:
        return f"<FunctionCall {self.object_id}>"

    def __reduce__(self) -> Any:
        return _of_id, (self.object_id,)

    @property
    def logs(self) -> "CallLogs":
        """``logs.tail()``, ``logs.fetch()``: what its inputs wrote, wherever they ran."""
        from squall.sdk.function.logs import CallLogs, of_call

        return CallLogs(self._client, lambda: of_call(self.object_id))

    @at_once
    def from_id(function_call_id: str, client: Client | None = None) -> "FunctionCall[Any]":
        """The handle of an earlier call; no network.

        Raises:
            InvalidError: not an ``fc-…`` id.
        """
        if not isinstance(function_call_id, str) or not function_call_id.startswith("fc-"):
            raise InvalidError(f"{function_call_id!r} is no call id; they begin with fc- and come from FunctionCall.object_id")
        return FunctionCall(function_call_id, client or Client.default())

    @ThreadTwin
    def hydrate(self, client: Client | None = None) -> "FunctionCall[R]":
        """Look it up now; itself. `client`: of the server that has it. Raises NotFoundError."""
        if client is not None:
            self.client = self._client = client
        self._num_inputs()
        return self

    def _get(self, timeout: float | None = None, *, index: int = 0) -> R:
        """The value of input `index`; raises what it raised.

        Args:
            timeout: seconds to wait; 0 asks once, None waits without end.

        Raises:
            TimeoutError: (builtin) no result within `timeout`.
            OutputExpiredError: the result is not kept any more.
        """
        warn_if_in_loop("FunctionCall.get")
        client = self._client
        deadline = None if timeout is None else time.monotonic() + timeout
        connection = client.acquire()
        answer: Any
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                connection.send(Await(1, self.object_id, index, left))
                answer = connection.receive()
                break
            except BROKEN:
                connection.close()
                connection = client.reconnect()
            except BaseException:
                connection.close()
                raise
        client.release(connection)
        return self._value(answer, timeout)

    async def _get_aio(self, timeout: float | None = None, *, index: int = 0) -> R:
        link = self._client.loop_connection()
        request, queue = link.begin()
        return self._value(await link.answer(Await(request, self.object_id, index, timeout), queue), timeout)

    def _value(self, answer: Any, timeout: float | None) -> R:
        if isinstance(answer, NotReady):
            raise TimeoutError(f"{self.object_id} has no result after {timeout} s")
        if isinstance(answer, Fault):
            raise rebuild(answer.code, answer.message, answer.details)
        if not isinstance(answer, Output):
            raise OutputExpiredError(f"no result of {self.object_id} is stored")
        value: R = value_of(answer, self.object_id)
        return value

    def _cancel(self, terminate_containers: bool = False) -> None:
        """Stop the call's inputs; they are not retried. `terminate_containers` ends the containers that run them."""
        connection = self._client.acquire()
        try:
            connection.send(Cancel(self.object_id, (), terminate_containers))
        except BROKEN as error:
            connection.close()
            raise ClientClosed(f"the server went away: {error}") from error
        self._client.release(connection)

    async def _cancel_aio(self, terminate_containers: bool = False) -> None:
        import asyncio

        await asyncio.to_thread(self._cancel, terminate_containers)

    # calls of many inputs

    def _num_inputs(self) -> int:
        """How many inputs the call has.

        Raises:
            NotFoundError: the server knows nothing of it.
        """
        if self._inputs is None:
            self._inputs = len(self._rows(self._client.request(ListInputs(self.object_id))))
        return self._inputs

    async def _num_inputs_aio(self) -> int:
        import asyncio

        return await asyncio.to_thread(self._num_inputs)

    def _iter(self, *, start: int = 0, end: int | None = None) -> Iterator[R]:
        """The values of the inputs from `start` to before `end` (None: the last), in order, each when it is there."""
        for index in range(start, self._num_inputs() if end is None else end):
            yield self._get(index=index)

    async def _iter_aio(self, *, start: int = 0, end: int | None = None) -> AsyncIterator[R]:
        for index in range(start, await self._num_inputs_aio() if end is None else end):
            yield await self._get_aio(index=index)

    def _call_graph(self) -> list[InputInfo]:
        """The inputs of this call, and below each those of the calls that it made, as far as the server still knows them: what runs, and what was spawned.

        Raises:
            NotFoundError: the server knows nothing of the call.
        """
        return graph(self._rows(self._client.request(ListInputs(self.object_id, True))))

    async def _call_graph_aio(self) -> list[InputInfo]:
        return graph(self._rows(await self._client.request_aio(ListInputs(self.object_id, True))))

    @staticmethod
    def _rows(answer: Any) -> list[dict[str, Any]]:
        assert isinstance(answer, Rows)
        return list(answer.rows)

    @staticmethod
    def _gather(*function_calls: "FunctionCall[Any]") -> list[Any]:
        """The values of several calls, in order; the first failure is raised."""
        return [call._get() for call in function_calls]

    @staticmethod
    async def _gather_aio(*function_calls: "FunctionCall[Any]") -> list[Any]:
        import asyncio

        return list(await asyncio.gather(*(call._get_aio() for call in function_calls)))

    gather: ClassVar[Dual[..., list[Any], Coroutine[Any, Any, list[Any]]]] = Dual(_gather, _gather_aio)


def _of_id(call_id: str) -> FunctionCall[Any]:
    """A handle that was pickled."""
    return FunctionCall.from_id(call_id)


_STATUS = {
    "queued": InputStatus.PENDING, "running": InputStatus.PENDING, "succeeded": InputStatus.SUCCESS, "failed": InputStatus.FAILURE,
    "cancelled": InputStatus.TERMINATED, "expired": InputStatus.SUCCESS,
}  # fmt: skip


def graph(rows: list[dict[str, Any]]) -> list[InputInfo]:
    """The trees that the rows of a `ListInputs` make."""
    made = [
        InputInfo(input_id(row["call"], row["index"]), row["call"], row["container"], _STATUS[row["state"]], row["function"], row["module"]) for row in rows
    ]
    by_id = {one.input_id: one for one in made}
    roots: list[InputInfo] = []
    for row, one in zip(rows, made, strict=True):
        parent = by_id.get(row["parent"])
        (roots if parent is None else parent.children).append(one)
    return roots
