"""Calls of functions over HTTP: arguments and values as JSON, the items of a generator as server-sent events."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import msgspec

from squall.gateway.api.errors import problem, status_of
from squall.gateway.api.plain_values import VALUE_BYTES_MAX, encoded, too_large
from squall.model.errors import InvalidError, NotFoundError, RequestSizeError, rebuild
from squall.model.ids import CALL, make_id
from squall.model.specs import MethodSpec
from squall.wire.messages import DURABLE, FAILED, ITEM, LIVE, OK, RAISED, Await, Call, Cancel, Credit, Fault, NotReady, Output, Raised
from squall.wire.values import dump_arguments

if TYPE_CHECKING:
    from squall.gateway.api.api import Answer, ApiCall

#: Items that a generator may be ahead of its reader.
CREDIT_ITEMS = 64


class _Waiter:
    """Asks the router for one outcome."""

    gone = False

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[Any] = loop.create_future()

    def send(self, message: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(message)


async def _function(call: "ApiCall", names: dict[str, str]) -> tuple[str, MethodSpec]:
    """The id of a function of a deployed app, and its method.

    Raises:
        NotFoundError: there is none.
        InvalidError: it is a web function.
    """
    environment = call.query.get("environment", "main")
    row = await call.server.deployments.find(names["app"], environment)
    tag, _, method = names["function"].partition(".")
    function = call.server.apps.functions_of(row.id).get(tag)
    if function is None:
        raise NotFoundError(f"the app {row.name} has no {names['function']!r}")
    live = call.server.router.functions.get(function)
    spec = next((one for one in live.spec.methods if one.name == method), None) if live is not None else None
    if spec is None:
        raise NotFoundError(f"the app {row.name} has no {names['function']!r}")
    if spec.web is not None:
        raise InvalidError(f"{names['function']} is a web function: send requests to its URL")
    return function, spec


def _call(call: "ApiCall", names: dict[str, str], function: str, method: MethodSpec, *, hold: int, credit: int = 0) -> Call:
    """The message for the router.

    Raises:
        InvalidError: the body says no arguments.
    """
    body = call.json()
    args, kwargs = body.get("args", []), body.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict) or set(body) - {"args", "kwargs"}:
        raise InvalidError('the body is {"args": [...], "kwargs": {...}}; both may be left out')
    call_id = make_id(CALL, time.time_ns() // 1_000_000, os.urandom(10))
    return Call(1, function, call_id, 0, dump_arguments(tuple(args), kwargs, names["function"]), method.name, hold, credit)


async def _ask(call: "ApiCall", message: Call) -> Any:
    """Submit it and wait: for its outcome, or until it is on disk. A client that hangs up cancels what only it waits for."""
    waiter = _Waiter(call.server.loop)
    call.server.router.submit(message, waiter)
    try:
        return await waiter.answer
    except asyncio.CancelledError:
        waiter.gone = True
        if message.hold == LIVE:
            call.server.router.cancel(Cancel(message.call))
        raise


async def call_function(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Call a function of a deployed app and wait for its value; the items of a generator come as server-sent events."""
    function, method = await _function(call, names)
    if method.is_generator:
        return 200, _items(call, _call(call, names, function, method, hold=LIVE, credit=CREDIT_ITEMS))
    message = _call(call, names, function, method, hold=LIVE)
    return await outcome(message.call, await _ask(call, message))


async def spawn_function(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Start a call; the answer has its id as soon as it is on disk."""
    function, method = await _function(call, names)
    if method.is_generator:
        raise InvalidError(f"{names['function']} is a generator, whose items somebody has to take: call it")
    message = _call(call, names, function, method, hold=DURABLE)
    answer = await _ask(call, message)
    if isinstance(answer, Fault):
        return await outcome(message.call, answer)
    return 202, {"call": message.call, "result": f"/api/v1/calls/{message.call}/result"}


class _Items:
    """Asks the router for the items of a generator."""

    gone = False

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[Any] = asyncio.Queue()  # bounded by the credit that is given

    def send(self, message: Any) -> None:
        self.waiting.put_nowait(message)


async def _items(call: "ApiCall", message: Call) -> AsyncGenerator[dict[str, Any], None]:
    """``item`` events, and an ``end`` or ``error`` event. A reader that hangs up ends the generator."""
    router, caller, ended = call.server.router, _Items(), False
    router.submit(message, caller)
    try:
        while True:
            answer = await caller.waiting.get()
            if not isinstance(answer, Output) or answer.status != ITEM:
                ended = True
                status, value = await outcome(message.call, answer)
                yield {"event": "end" if status == 200 else "error", **({"call": message.call} if status == 200 else value)}
                return
            yield {"event": "item", "json": await encoded(answer.data, {})}
            router.credit(Credit(message.call, 0, 1))
    except RequestSizeError as error:
        yield {"event": "error", "call": message.call, **problem(error)}
    finally:
        caller.gone = True
        if not ended:
            router.cancel(Cancel(message.call))


async def call_result(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """The value of a call; waits at most `timeout` seconds (0 to 300) for it, and says 202 when there is none yet."""
    try:
        timeout = float(call.query.get("timeout", "0"))
    except ValueError:
        raise InvalidError("timeout is a number of seconds") from None
    if not 0 <= timeout <= 300:
        raise InvalidError("timeout is from 0 to 300 seconds")
    waiter = _Waiter(call.server.loop)
    call.server.router.waits.wait_for(Await(1, names["call"], 0, timeout), waiter)
    message = await waiter.answer
    if isinstance(message, NotReady):
        return 202, {"call": names["call"], "state": "pending"}
    return await outcome(names["call"], message)


async def cancel_call(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """Stop a call's inputs."""
    call.server.router.cancel(Cancel(names["call"]))
    return 200, {"call": names["call"]}


async def list_calls(call: "ApiCall", names: dict[str, str]) -> "Answer":
    """The latest inputs, of all apps or of `app`."""
    return 200, {"calls": call.server.router.history.rows(call.server.router, app=call.query.get("app", ""), limit=call.limit())}


async def outcome(call_id: str, message: Any) -> "Answer":
    """An input's end as JSON. A value that JSON has no form for comes as base64 of its pickle, under `pickle`."""
    if isinstance(message, Fault):
        error = rebuild(message.code, message.message, message.details)
        return status_of(error), {"call": call_id, **problem(error)}
    assert isinstance(message, Output)
    if message.status == OK:
        return 200, await encoded(message.data, {"call": call_id}, indent=2)
    if len(message.data) > VALUE_BYTES_MAX:
        raise too_large(message.data)
    if message.status == RAISED:
        raised = msgspec.msgpack.decode(message.data, type=Raised)
        return 500, {"call": call_id, "error": {"code": "raised", "type": raised.type_name, "message": raised.message, "traceback": raised.text}}
    if message.status == FAILED:
        return await outcome(call_id, msgspec.msgpack.decode(message.data, type=Fault))
    return 409, {"call": call_id, "error": {"code": "cancelled", "message": "the call was cancelled"}}
