"""Parameters are never accepted and ignored: misspelled ones and those that are not built are refused by name, and the others do what they say."""

import asyncio
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import squall
from squall.exception import DeprecationError, InvalidError, UnsupportedError
from squall.sdk.app.run import app_spec
from squall.sdk.client.client import Client
from squall.sdk.source.sources import Shipment
from squall.sdk.types import InputStatus
from squall.wire.address import Address
from squall.wire.blocking import BlockingConnection
from squall.wire.messages import PROTOCOL_VERSION, Fault, FromClient, Hello, Names, Reply, Request, Rows, Welcome
from squall.wire.state import DropObject, ListObjects, Opened, OpenObject, PutSecret


class Elsewhere:
    """It notes what it was asked, and says that everything is there but apps."""

    def __init__(self, path: Path) -> None:
        self.asked: list[Any] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.client = Client(Address(path=str(path)))

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(BlockingConnection(accepted, FromClient),), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: Any) -> None:
        try:
            while True:
                message = connection.receive()
                if isinstance(message, Hello):
                    connection.send(Welcome(PROTOCOL_VERSION, "sv-elsewhere"))
                elif isinstance(message, Request):
                    self.asked.append(message.command)
                    connection.send(self._answer(message.request, message.command))
        except (OSError, EOFError):
            connection.close()

    def _answer(self, request: int, command: Any) -> Any:
        match command:
            case OpenObject():
                return Reply(request, Opened("xx-of-elsewhere", command.kind, command.name, "main", 0.0, ()))
            case PutSecret():
                return Reply(request, Opened("st-of-elsewhere", "secret", command.name, "main", 0.0, ()))
            case ListObjects():
                return Reply(request, Rows(({"id": "xx-1", "name": "one", "environment": "main", "created_at": 0.0, "used_at": None},)))
            case DropObject():
                return Reply(request, Names(()))
        return Fault(request, "not_found", "nothing of that name", {})

    def close(self) -> None:
        self.client.close()
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        for thread in self._threads:
            thread.join(5)
        self._socket.close()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    """A server that is not the default one, which does not exist."""
    monkeypatch.setattr(Client, "_default", Client(Address(path=str(tmp_path / "nobody"))))
    monkeypatch.setattr(Client, "_default_pid", os.getpid())
    made = Elsewhere(tmp_path / "elsewhere")
    yield made
    made.close()


STORED = [squall.Volume, squall.Dict, squall.Queue]


@pytest.mark.parametrize("kind", STORED)
def test_objects_are_created_listed_and_deleted_where_the_client_says(elsewhere: Elsewhere, kind: Any) -> None:
    kind.objects.create("a", client=elsewhere.client)
    kind.objects.delete("a", client=elsewhere.client)
    (found,) = kind.objects.list(client=elsewhere.client)
    assert found.client is elsewhere.client
    kind.delete("b", client=elsewhere.client)
    assert [type(one) for one in elsewhere.asked[:3]] == [OpenObject, DropObject, ListObjects]
    handle = kind.from_name("c")
    assert handle.hydrate(elsewhere.client).object_id == "xx-of-elsewhere"
    assert handle.client is elsewhere.client


async def _aio(elsewhere: Elsewhere) -> None:
    await squall.Dict.objects.delete.aio("a", client=elsewhere.client)
    await squall.Environment.objects.create.aio("e", client=elsewhere.client)


def test_of_secrets_environments_and_file_systems(elsewhere: Elsewhere) -> None:
    asyncio.run(_aio(elsewhere))
    squall.Secret.objects.create("s", {"A": "1"}, client=elsewhere.client)
    squall.Secret.objects.delete("s", client=elsewhere.client)
    (secret,) = squall.Secret.objects.list(client=elsewhere.client)
    assert secret.client is elsewhere.client
    squall.Environment.objects.create("e", client=elsewhere.client)
    squall.Environment.objects.delete("e", client=elsewhere.client)
    (environment,) = squall.Environment.objects.list(client=elsewhere.client)
    assert environment.client is elsewhere.client
    assert squall.Environment.from_name("e").hydrate(elsewhere.client).client is elsewhere.client
    assert squall.NetworkFileSystem.create_deployed("n", elsewhere.client) == "xx-of-elsewhere"


@pytest.mark.parametrize("kind", STORED)
def test_what_is_no_client(kind: Any) -> None:
    for use in (lambda: kind.objects.delete("a", client="prod"), lambda: kind.from_name("a").hydrate(client="prod")):
        with pytest.raises(InvalidError, match="client='prod' is not a squall.Client"):
            use()


@pytest.mark.filterwarnings("ignore::squall.exception.DeprecationError")
def test_deployed_functions_and_classes_are_looked_up_where_the_client_says(elsewhere: Elsewhere) -> None:
    for use in (
        lambda: squall.Function.from_name("a", "f", client=elsewhere.client, environment_name="dev").hydrate(),
        lambda: squall.Function.from_name("a", "f", environment_name="dev").hydrate(client=elsewhere.client),
        lambda: squall.Function.lookup("a", "f", client=elsewhere.client, environment_name="dev").hydrate(),
        lambda: squall.Cls.from_name("a", "C", client=elsewhere.client, environment_name="dev").hydrate(),
        lambda: squall.Cls.from_name("a", "C", client=elsewhere.client, environment_name="dev").with_options(cpu=1).hydrate(),
        lambda: squall.Cls.lookup("a", "C", client=elsewhere.client, environment_name="dev").hydrate(),
        lambda: squall.Server.from_name("a", "S", client=elsewhere.client, environment_name="dev").get_url(),
    ):
        elsewhere.asked.clear()
        with pytest.raises(squall.exception.NotFoundError):
            use()
        assert [one.environment for one in elsewhere.asked] == ["dev"]
    with pytest.raises(TypeError, match="enviroment_name"):
        squall.Function.lookup("a", "f", enviroment_name="dev")  # type: ignore[call-arg]


def test_an_app_uses_no_objects_of_two_servers(elsewhere: Elsewhere) -> None:
    for options in (
        {"secrets": [squall.Secret.from_name("s", client=elsewhere.client)]},
        {"volumes": {"/v": squall.Volume.from_name("v", client=elsewhere.client)}},
        {"image": squall.Image.from_id("im-1", client=elsewhere.client)},
        {"image": squall.Image.from_name("x", client=elsewhere.client).env({"A": "1"})},
    ):
        app = squall.App("mixed")
        app.function(serialized=True, **options)(lambda_of_nothing)
        with pytest.raises(InvalidError, match="an app can't use both"):
            app_spec(app, Shipment())


def lambda_of_nothing() -> None: ...


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: squall.Dict.objects.create("d", allow_exsiting=True), "Dict.objects.create has no parameter 'allow_exsiting'; did you mean 'allow_existing'?"),
        (lambda: squall.Volume.objects.create("v", versoin=2), "Volume.objects.create has no parameter 'versoin'; did you mean 'version'?"),
        (lambda: squall.Queue.ephemeral(enviroment_name="x"), "Queue.ephemeral has no parameter 'enviroment_name'; did you mean 'environment_name'?"),
        (lambda: squall.Volume.ephemeral(version=3), "version=3 of Volume.ephemeral is neither 1 nor 2"),
        (lambda: squall.Dict.ephemeral(_heartbeat_sleep=3), "_heartbeat_sleep= of .ephemeral has no meaning"),
        (lambda: squall.Dict.objects.create("d", quota="1GiB"), "quota= is of volumes"),
        (lambda: squall.Environment.objects.create("e", restrictd=True), "did you mean 'restricted'?"),
        (lambda: squall.NetworkFileSystem.from_name("n", creat_if_missing=True), "did you mean 'create_if_missing'?"),
        (lambda: squall.App("a").include(squall.App("b"), inherit_tags="no"), "inherit_tags='no' is not True or False"),  # type: ignore[arg-type]
        (lambda: squall.App("a").server(port=1, target_concurrency=1.5), "target_concurrency=1.5 is not a whole number"),
        (lambda: squall.Secret.from_name("s").info(refresh="yes"), "refresh='yes'"),
    ],
)
@pytest.mark.filterwarnings("ignore::squall.exception.DeprecationError")
def test_misspelled_and_wrong(use: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidError, match="^.*" + re.escape(message)):
        use()


SLIM = squall.Image.debian_slim()


@pytest.mark.parametrize(
    ("use", "parameter"),
    [
        (lambda: squall.App("a", tags={"team": "x"}), "tags="),
        (lambda: squall.Environment.objects.create("e", restricted=True), "restricted="),
        (lambda: squall.Environment.objects.create("e", default_role="viewer"), "default_role="),
        (lambda: squall.Volume.from_name("v", create_options={"experimental_options": {"x": 1}}), "create_options="),
        (lambda: squall.Volume.objects.create("v", experimental_options={"x": 1}), "experimental_options="),
        (lambda: squall.Volume.from_name("v").read_file_into_fileobj("x", None, progress_cb=print), "progress_cb="),  # type: ignore[arg-type]
        (lambda: SLIM.uv_pip_install("x", uv_version="0.7"), "uv_version="),
        (lambda: SLIM.uv_sync(uv_version="0.7"), "uv_version="),
        (lambda: SLIM.poetry_install_from_file("pyproject.toml", old_installer=True), "old_installer="),
    ],
)
def test_what_is_not_built_is_refused_by_name(use: Callable[[], Any], parameter: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{parameter}.* not supported yet"):
        use()


def test_neutral_values_are_taken() -> None:
    squall.App("a", tags={})
    squall.Volume.from_name("v", version=2, create_options={})
    squall.App("a").server(port=1, target_concurrency=2.0)
    SLIM.uv_pip_install("x", uv_version=None)


def test_places_of_a_build_are_said_to_have_no_effect() -> None:
    with pytest.warns(UserWarning, match="region='eu' has no effect"):
        SLIM.run_function(lambda_of_nothing, region="eu")
    with pytest.warns(UserWarning, match="cloud='aws' has no effect"):
        SLIM.run_function(lambda_of_nothing, cloud="aws")


def test_the_numbers_of_what_became_of_an_input() -> None:
    assert {one.name: one.value for one in InputStatus} == {"PENDING": 0, "SUCCESS": 1, "FAILURE": 2, "TERMINATED": 3, "TIMEOUT": 4, "INIT_FAILURE": 5}


def test_a_web_url_under_its_old_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    function: Any = squall.App("a").function(serialized=True)(lambda_of_nothing)
    monkeypatch.setattr(function, "_web_url", lambda: "http://f.localhost")
    with pytest.warns(DeprecationError):
        assert function.web_url == "http://f.localhost"


def test_a_serialized_class_with_a_parameter_can_be_pickled() -> None:
    import warnings

    import cloudpickle

    from squall.sdk.function.serialize import pickle_function

    cls: Any = squall.App("a").cls(serialized=True)(Sized)
    globals()["Sized"] = cls  # as where a decorator stands on it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = pickle_function(cls._by_value(), "Sized", __name__)
    bodies, *_ = cloudpickle.loads(data)._squall_serve({"size": 3})
    assert bodies["double"]() == 6


class Sized:
    size: int = squall.parameter()

    @squall.method()
    def double(self) -> int:
        return 2 * self.size


@pytest.mark.parametrize(
    "use",
    [
        lambda: squall.Sandbox.from_id("sb-1").returncode == 0,
        lambda: bool(squall.Sandbox.from_id("sb-1").returncode),
        lambda: squall.Tunnel.from_id("t").url,
        lambda: f"{squall.Workspace.from_context().name}",
        lambda: squall.App("a").info == 1,  # type: ignore[attr-defined]
        lambda: bool(squall.App("a").stats),  # type: ignore[attr-defined]
        lambda: f"{squall.App('a').stats}",  # type: ignore[attr-defined]
        lambda: squall.types.AppState.DEPLOYED == "deployed",  # type: ignore[attr-defined]
        lambda: squall.types.FileInfo("x"),  # type: ignore[attr-defined]
    ],
)
def test_nothing_stands_for_a_value_that_is_not_known(use: Callable[[], Any]) -> None:
    with pytest.raises(UnsupportedError, match="not supported yet"):
        use()
