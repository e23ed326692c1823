"""Code in a container makes variants of its own function that its app never declared: buckets, more of a volume, no size at all."""

import secrets
from pathlib import Path

import msgspec
import pytest

import squall
from squall.model.options import FunctionOptions
from squall.model.specs import BucketMount, VolumeMount

pytestmark = pytest.mark.root


def attacking(volume: squall.Volume) -> squall.App:
    """One function: asks for a variant of itself by a message of its own, as no SDK would, and gives the answer's kind."""
    app = squall.App("attacking")

    @app.function(volumes={"/data": volume.with_mount_options(sub_path="tenant-a")}, serialized=True, name="derive", retries=0)
    def derive(function: str, options: bytes) -> str:
        import os
        import socket

        from squall.wire.blocking import BlockingConnection
        from squall.wire.messages import PROTOCOL_VERSION, DeriveFunction, Fault, Hello, Request, ToClient

        sock = socket.socket(socket.AF_UNIX)
        sock.connect(os.environ["SQUALL_CONTAINER_SOCKET"])
        connection: BlockingConnection = BlockingConnection(sock, ToClient)  # type: ignore[type-arg]
        connection.send(Hello(PROTOCOL_VERSION, "client", "attacking"))
        connection.receive(10)
        connection.send(Request(1, DeriveFunction(function, options)))
        answer = connection.receive(20)
        connection.close()
        return answer.code if isinstance(answer, Fault) else "made"

    return app


def test_variants_that_the_app_never_declared_are_refused(data: Path) -> None:
    name = f"attacked-{secrets.token_hex(4)}"
    volume = squall.Volume.from_name(name, create_if_missing=True)
    volume.hydrate()
    with attacking(volume).run() as app:
        derive = app.registered_functions["derive"]
        derive.hydrate()

        def ask(options: FunctionOptions) -> str:
            answer: str = derive.remote(derive.object_id, msgspec.msgpack.encode(options))
            return answer

        def mount(**more: object) -> FunctionOptions:
            return FunctionOptions(volumes=(VolumeMount("/data", volume.object_id, **more),))  # type: ignore[arg-type]

        assert ask(FunctionOptions(buckets=(BucketMount("/b", "cron.d", "http://192.0.2.1/x,use_cache=/etc"),))) == "invalid"
        assert ask(FunctionOptions(buckets=(BucketMount("/b", "plain", "http://192.0.2.1"),))) == "permission_denied"
        assert ask(mount()) == "permission_denied"
        assert ask(mount(sub_path="tenant-b")) == "permission_denied"
        assert ask(FunctionOptions(cpu_request=0.0)) == "invalid"
        assert ask(FunctionOptions(memory_request_mib=0)) == "invalid"
        assert ask(FunctionOptions(cpu_request=float("nan"))) == "invalid"
        assert ask(mount(sub_path="tenant-a/below")) == "made"
    squall.Volume.objects.delete(name)
