"""Code in a container reaches for ephemeral volumes of others, and fills the machine with its own."""

from pathlib import Path

import msgspec
import pytest

import squall
from squall.model.options import FunctionOptions
from squall.model.specs import VolumeMount
from squall.wire.messages import DeriveFunction, Request
from squall.wire.state import VOLUME, OpenObject

from .conftest import Runner
from .test_deploy import own

pytestmark = pytest.mark.root
__all__ = ["own"]


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


def test_a_container_makes_no_more_ephemeral_volumes_than_its_app_may_have_and_fills_none(own: Runner) -> None:
    own.extra = {"SQUALL_EPHEMERAL_VOLUMES": "4", "SQUALL_EPHEMERAL_VOLUMES_GIB": str(32 / 1024)}
    started = own("server", "start")
    assert started.returncode == 0, started.stderr
    with attacking(may_deploy=False).run() as app:
        send = app.registered_functions["send"]
        send.hydrate()
        made = send.remote(asked(OpenObject(VOLUME, quota_bytes=16 << 30), *[OpenObject(VOLUME)] * 6))
        assert [answer.partition(":")[0] for answer in made] == ["resource_exhausted", *["done"] * 4, *["resource_exhausted"] * 2], made
        assert "SQUALL_EPHEMERAL_VOLUMES" in made[-1]
        assert "SQUALL_EPHEMERAL_VOLUMES_GIB" in made[0]
    assert not list((own.data / "volumes" / ".quotas").glob("*"))


def test_a_container_fills_its_ephemeral_volume_only_so_far(own: Runner) -> None:
    own.extra = {"SQUALL_EPHEMERAL_VOLUMES_GIB": str(32 / 1024)}
    started = own("server", "start")
    assert started.returncode == 0, started.stderr
    app = squall.App("filling")

    @app.function(serialized=True, retries=0)
    def fill() -> tuple[int, str]:
        import io

        import squall

        with squall.Volume.ephemeral() as volume:
            for _ in range(3):  # the same file again takes no more room
                with volume.batch_upload(force=True) as batch:
                    batch.put_file(io.BytesIO(bytes(12 << 20)), "/same")
            for number in range(40):
                try:
                    with volume.batch_upload(force=True) as batch:
                        batch.put_file(io.BytesIO(bytes(4 << 20)), f"/{number}")
                except squall.exception.ResourceExhaustedError as error:
                    return number, str(error)
        return 40, ""

    with app.run():
        files, error = fill.remote()
    assert 3 <= files <= 5, (files, error)
    assert "SQUALL_EPHEMERAL_VOLUMES_GIB" in error


def test_a_container_fills_no_more_of_the_servers_memory_than_its_app_may(data: Path) -> None:
    app = squall.App("filling")

    @app.function(serialized=True, name="fill", retries=0)
    def fill(times: int) -> tuple[int, str]:
        with squall.Dict.ephemeral() as held, squall.Queue.ephemeral() as queue:
            for number in range(times):
                try:
                    held.put(number, bytes(40 << 20)) if number % 2 else queue.put_many([bytes(900_000)] * 40)
                except squall.exception.ResourceExhaustedError as error:
                    return number, str(error)
        return times, ""

    with app.run():
        done, said = app.registered_functions["fill"].remote(30)
        assert done in (6, 7)
        assert "SQUALL_EPHEMERAL_MEMORY_MIB" in said
        assert app.registered_functions["fill"].remote(5) == (5, "")  # what the block before had is free again
