"""One input and its answer over a connection, surviving a server that restarts; and what a long wait is for."""

import contextlib
from typing import Any

from squall.model.errors import ExecutionError, rebuild
from squall.sdk.client.client import BROKEN, Client, Connection
from squall.sdk.output.live_output import catch_up
from squall.sdk.output.output import patient_sink
from squall.wire.messages import Accepted, Call, Cancel, Fault, ListCalls, Output, Rows

#: A call that waits longer than this says what for, on a terminal (experience: two seconds).
PATIENCE_S = 2.0


def receive_patiently(client: Client, connection: Connection, call_id: str) -> Any:
    """Wait for a call's answer; when that takes long, the sink shows what it waits for."""
    sink = patient_sink()
    assert sink is not None
    with contextlib.suppress(TimeoutError):
        return connection.receive(PATIENCE_S)

    def reason() -> str | None:
        answer = client.request(ListCalls(call=call_id, limit=1))
        return waiting_line(answer.rows[0]) if isinstance(answer, Rows) and answer.rows else None

    with sink.waiting(reason):
        return connection.receive()


def waiting_line(row: dict[str, Any]) -> str | None:
    """``train waits 4 s for a container ..., place 3``; None for an input that does not wait."""
    if row["state"] != "queued":
        return None
    place = f", place {row['position']}" if row.get("position") else ""
    return f"{row['function']} waits {row['waited_s']:.0f} s for {row['waits_for']}{place}"


def exchange(client: Client, call: Call) -> Output | Accepted:
    """Send one input and wait for its answer; sent again, under the same id, to a server that went away and came back."""
    connection = client.acquire()
    answer: Any
    while True:
        try:
            connection.send(call)
            answer = connection.receive() if patient_sink() is None else receive_patiently(client, connection, call.call)
            break
        except BROKEN:
            connection.close()
            connection = client.reconnect()
        except BaseException:  # Ctrl-C: nobody waits for the result any more
            with contextlib.suppress(OSError):
                connection.send(Cancel(call.call))
            connection.close()
            raise
    client.release(connection)
    if isinstance(answer, Accepted):
        return answer
    catch_up()
    return checked(answer)


def checked(answer: Any) -> Output:
    """An Output; raises what else came."""
    if isinstance(answer, Output):
        return answer
    if isinstance(answer, Fault):
        raise rebuild(answer.code, answer.message, answer.details)
    if isinstance(answer, BaseException):
        raise answer
    raise ExecutionError(f"the server answered a call with {type(answer).__name__}")
