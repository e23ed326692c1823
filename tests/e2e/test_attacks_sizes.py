"""Code in a container makes itself larger, or more of itself, than its program declared; and a container that is kept warm takes the machine."""

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

import squall
from squall.model.options import FunctionOptions
from support.waiting import wait_until

pytestmark = pytest.mark.root


def attacking() -> squall.App:
    """Asks by messages of its own, as no SDK would, and gives the answer's kind."""
    app = squall.App("attacking")

    @app.function(serialized=True, name="ask", retries=0, cpu=0.5, memory=(256, 256), max_containers=4, buffer_containers=1)
    def ask(function: str, options: bytes, counts: tuple[int | None, ...]) -> str:
        import os
        import socket

        from squall.wire.blocking import BlockingConnection
        from squall.wire.messages import PROTOCOL_VERSION, DeriveFunction, Fault, Hello, Request, ToClient, TuneFunction

        sock = socket.socket(socket.AF_UNIX)
        sock.connect(os.environ["SQUALL_CONTAINER_SOCKET"])
        connection: BlockingConnection = BlockingConnection(sock, ToClient)  # type: ignore[type-arg]
        connection.send(Hello(PROTOCOL_VERSION, "client", "attacking"))
        connection.receive(10)
        connection.send(Request(1, DeriveFunction(function, options) if options else TuneFunction(function, b"", *counts)))
        answer = connection.receive(20)
        connection.close()
        return answer.code if isinstance(answer, Fault) else "done"

    return app


def test_containers_make_themselves_no_larger_and_no_more_than_declared(data: Path) -> None:
    app = attacking()
    ask: Any = app.registered_functions["ask"]
    ask.with_options(memory=(1024, 1024), max_containers=2)  # declared, though nobody here calls it
    with app.run():
        ask.hydrate()

        def variant(**options: Any) -> str:
            answer: str = ask.remote(ask.object_id, msgspec.msgpack.encode(FunctionOptions(**options)), ())
            return answer

        def tuned(*counts: int | None) -> str:
            answer: str = ask.remote(ask.object_id, b"", counts)
            return answer

        refused = "permission_denied"
        assert variant(cpu_request=0.001, memory_request_mib=1) == refused  # hundreds of containers would fit
        assert variant(cpu_request=2.0) == refused
        assert variant(memory_request_mib=1025, memory_limit_mib=1025) == refused
        assert variant(memory_request_mib=128) == refused  # without a limit
        assert variant(max_containers=5) == refused
        assert variant(buffer_containers=100) == refused
        assert tuned(150) == refused
        assert tuned(None, 1000) == refused
        assert tuned(None, None, 50) == refused
        assert variant(cpu_request=0.25, memory_request_mib=128, memory_limit_mib=256, timeout_s=60.0, max_containers=1) == "done"
        assert variant(memory_request_mib=1024, memory_limit_mib=1024, max_containers=2, timeout_s=20.0) == "done"  # within what the program declares
        assert tuned(0, 2, 0, 5) == "done"
        assert ask.update_autoscaler(min_containers=1, max_containers=6).max_containers == 6  # the owner's program may do more


def test_a_container_that_is_kept_warm_makes_room_for_another_apps_inputs(data: Path) -> None:
    total_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    hoarder, other = squall.App("hoarder"), squall.App("other")

    @hoarder.function(serialized=True, name="hoard", min_containers=1, memory=int(total_mib * 0.8))
    def hoard() -> None: ...

    @other.function(serialized=True, name="work", memory=int(total_mib * 0.4))
    def work() -> int:
        return 42

    with hoarder.run():
        wait_until(lambda: hoard.get_current_stats().num_total_runners == 1)
        with other.run():
            assert work.spawn().get(timeout=60) == 42
