"""Code in a container reaches for ephemeral volumes of others, and fills the machine with its own."""

from pathlib import Path

import msgspec
import pytest

import squall
from squall.model.options import FunctionOptions
from squall.model.specs import VolumeMount
from squall.wire.messages import DeriveFunction, Request
from squall.wire.state import VOLUME, OpenObject

pytestmark = pytest.mark.root


def attacking(may_deploy: bool) -> squall.App:
    """One function: sends requests of its own, as no SDK would, and gives the kinds of the answers."""
    app = squall.App("attacking")

    @app.function(serialized=True, name="send", retries=0, may_deploy=may_deploy)
    def send(requests: list[bytes]) -> list[str]:
        import os
        import socket

        import msgspec

        from squall.wire.blocking import BlockingConnection
        from squall.wire.messages import PROTOCOL_VERSION, Fault, Hello, Request, ToClient

        sock = socket.socket(socket.AF_UNIX)
        sock.connect(os.environ["SQUALL_CONTAINER_SOCKET"])
        connection: BlockingConnection = BlockingConnection(sock, ToClient)  # type: ignore[type-arg]
        connection.send(Hello(PROTOCOL_VERSION, "client", "attacking"))
        connection.receive(10)
        answers = []
        for request in requests:
            connection.send(msgspec.msgpack.decode(request, type=Request))
            answer = connection.receive(60)
            answers.append(f"{answer.code}: {answer.message}" if isinstance(answer, Fault) else "done")
        connection.close()
        return answers

    return app


def asked(*commands: object) -> list[bytes]:
    return [msgspec.msgpack.encode(Request(number + 1, command)) for number, command in enumerate(commands)]  # type: ignore[arg-type]


def test_a_container_that_may_deploy_reaches_no_ephemeral_volume_of_another_client(data: Path) -> None:
    with squall.Volume.ephemeral() as private, attacking(may_deploy=True).run() as app:
        send = app.registered_functions["send"]
        send.hydrate()
        mounted = FunctionOptions(volumes=(VolumeMount("/theirs", private.object_id),))
        answers = send.remote(asked(DeriveFunction(send.object_id, msgspec.msgpack.encode(mounted)), OpenObject(VOLUME, id=private.object_id)))
        assert [answer.partition(":")[0] for answer in answers] == ["permission_denied"] * 2, answers
