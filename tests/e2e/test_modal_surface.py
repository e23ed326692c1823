"""Names of Modal's that ask the server, against a real one: the twins of `lookup`, `from_id` and of item access, handles that know their client."""

import asyncio
import dataclasses
import pickle
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import calling
import pytest

import squall
from squall import experimental
from squall.compat.runner import DeployResult, deploy_app
from squall.exception import ClientClosed, InvalidError, NotFoundError, UnsupportedError
from support.waiting import wait_until

pytestmark = pytest.mark.root


def test_items_of_a_dict_are_awaited(data: Path) -> None:
    async def talk(entries: Any) -> None:
        await entries.__setitem__.aio("a", 1)
        assert await entries.__getitem__.aio("a") == 1
        assert await entries.__contains__.aio("a")
        await entries.__delitem__.aio("a")
        assert not await entries.__contains__.aio("a")
        for use in (entries.__getitem__, entries.__delitem__):
            with pytest.raises(KeyError, match="a"):
                await use.aio("a")

    with squall.Dict.ephemeral() as entries:
        entries["b"] = None
        assert entries["b"] is None
        assert "b" in entries
        assert entries.pop("b") is None
        with pytest.raises(KeyError):
            entries.pop("b")
        assert entries.pop("b", None) is None
        asyncio.run(talk(entries))


def test_apps_and_calls_are_looked_up_on_a_loop(data: Path) -> None:
    async def talk() -> None:
        found = await squall.App.lookup.aio("looked-up", create_if_missing=True)
        assert found.app_id == squall.App.lookup("looked-up").app_id
        with pytest.raises(NotFoundError):
            await squall.App.lookup.aio("never-deployed")
        await found.stop.aio()

    with pytest.warns(squall.exception.AsyncUsageWarning, match="await App.lookup.aio"):  # of the second look-up, which blocks the loop
        asyncio.run(talk())


def test_a_handle_knows_its_call_and_its_client(data: Path) -> None:
    async def again(call_id: str) -> Any:
        return await squall.FunctionCall.from_id.aio(call_id)

    with calling.app.run():
        assert calling.square.client is squall.Client.default()
        call = calling.square.spawn(3)
        assert call.get() == 9
        assert call.hydrate() is call
        found = asyncio.run(again(call.object_id))
        assert found.client is squall.Client.default()
        assert pickle.loads(pickle.dumps(found)).get() == 9
    with pytest.raises(NotFoundError):
        squall.FunctionCall.from_id(f"{call.object_id[:-4]}0000").hydrate()


def test_an_image_of_the_server_is_looked_up(data: Path) -> None:
    with pytest.raises(InvalidError, match=r"not built yet: call its build\(\)"):
        squall.Image.debian_slim().hydrate()
    with pytest.raises(NotFoundError):
        squall.Image.from_name("never-published").hydrate()


def test_a_server_is_found_and_tuned_by_its_name(data: Path) -> None:
    app = squall.App("fronted")

    @app.server(name="front", exit_grace_period=5, target_concurrency=7, serialized=True, unauthenticated=True)
    class Listening:
        @squall.enter()
        def listen(self) -> None:
            import subprocess
            import sys

            subprocess.Popen([sys.executable, "-m", "http.server", "8000"])

    with pytest.raises(UnsupportedError, match="staged=True of deploy_app"):
        deploy_app(app, staged=True)
    assert deploy_app(app) == DeployResult(str(app.app_id), None, None, [])
    try:
        server = squall.Server.from_name("fronted", "front")
        assert server.object_id is None
        assert server.hydrate() is server
        assert server.object_id == Listening.object_id
        assert server.get_url() == asyncio.run(server.get_url.aio()) == Listening.get_url()
        assert server.update_autoscaler(max_containers=3).max_containers == 3
        assert server.autoscaler.update(max_containers=4, min_containers=None).max_containers == 4
        settings = server.autoscaler.settings()
        assert (settings.target_concurrency, settings.min_containers, settings.max_containers, settings.scaleup_window) == (7, 0, 4, None)
        with pytest.raises(UnsupportedError, match=r"Server.sessions.start is not supported yet"):
            server.sessions.start()
    finally:
        app.stop()


def test_a_client_that_was_closed_says_so(data: Path) -> None:
    async def talk() -> None:
        async with squall.Client.from_credentials("ak-somebody", "of no meaning on a socket of this user") as client:
            assert "ak-somebody" in repr(client)
            assert [one.name async for one in client_dicts(client)] == []
        with pytest.raises(ClientClosed):
            await client.hello.aio()

    async def client_dicts(client: squall.Client) -> Any:
        for one in await squall.Dict.objects.list.aio(client=client):
            yield one

    address = squall.Client.default().server_url
    squall.Client.verify(address, ("ak-somebody", "token"))
    with squall.Client.anonymous(address) as client:
        client.hello()
        assert not client.is_closed()
        assert squall.Dict.objects.list(client=client) == []
    assert client.is_closed()
    client.close()
    for use in (client.hello, lambda: squall.Dict.objects.list(client=client), client.__enter__):
        with pytest.raises(ClientClosed, match="was closed"):
            use()
    asyncio.run(talk())
    squall.Client.default().close()
    squall.Client.default().hello()  # another one


def test_deployed_apps_are_listed_and_tuned(data: Path) -> None:
    app = squall.App("listed")

    @app.function(serialized=True, max_containers=5)
    def one() -> int:
        return 1

    @app.cls(serialized=True)
    class Two:
        @squall.method()
        def two(self) -> int:
            return 2

    app.deploy()
    (found,) = [each for each in experimental.list_deployed_apps() if each.name == "listed"]
    assert (found.app_id, found.containers) == (app.app_id, 0)
    assert found in asyncio.run(experimental.list_deployed_apps.aio("main"))
    objects = experimental.get_app_objects("listed")
    assert set(objects) == {"one", "Two"}
    assert objects["one"].remote() == 1
    assert objects["Two"]().two.remote() == 2
    main = squall.Environment.from_name("main")
    assert [each.name for each in main.apps.list() if each.app_id == app.app_id] == ["listed"]
    with pytest.raises(NotFoundError):
        squall.Environment.from_name("nowhere").apps.list()
    scaler = objects["one"].autoscaler
    before = scaler.settings()
    assert (before.min_containers, before.max_containers) == (0, 5)
    after = scaler.update(min_containers=None, max_containers=2, buffer_containers=1)
    assert after == asyncio.run(scaler.settings.aio()) == dataclasses.replace(before, max_containers=2, buffer_containers=1)
    with pytest.raises(UnsupportedError, match="max_containers=None of autoscaler.update"):
        scaler.update(max_containers=None)
    with pytest.warns(squall.exception.DeprecationError, match="App.lookup"):
        experimental.stop_app("listed")
    assert "listed" not in [each.name for each in experimental.list_deployed_apps()]
    assert app.app_id not in [each.app_id for each in main.apps.list()]


def heard_or_said(heard: "Future[Any]", say: Any) -> bool:
    """Whether the stream gave something; else it gets something to give, since nobody knows when it has begun."""
    if not heard.done():
        say.remote("again")
    return heard.done()


def test_logs_of_handles(data: Path) -> None:
    app = squall.App("logged")

    @app.function(serialized=True)
    def say(*words: str) -> None:
        import sys

        for word in words:
            print(word, file=sys.stderr if word.isupper() else sys.stdout, flush=True)

    @app.function(serialized=True)
    def other() -> None:
        print("of another function")

    def messages(entries: Any) -> list[str]:
        return [str(entry) for entry in entries]

    async def gather(entries: Any) -> list[str]:
        return [entry.message async for entry in entries]

    with app.run():
        with pytest.raises(InvalidError, match="entries=0"):
            list(say.logs.tail(0))
        call = say.spawn("one", "TWO")
        call.get()
        began = datetime.now(UTC)
        say.remote("three", "four")
        other.remote()
        wait_until(lambda: len(list(app.logs.tail())) == 5)
        assert messages(say.logs.tail()) == ["one\n", "TWO\n", "three\n", "four\n"]
        assert messages(say.logs.tail(2)) == asyncio.run(gather(say.logs.tail.aio(2))) == ["three\n", "four\n"]
        assert messages(say.logs.tail(source="stderr")) == ["TWO\n"]
        assert messages(say.logs.fetch(since=began, search_text="r")) == ["three\n", "four\n"]
        assert messages(say.logs.fetch(since=began, until=began)) == []
        assert messages(squall.FunctionCall.from_id(call.object_id).logs.tail()) == ["one\n", "TWO\n"]
        (entry, _) = call.logs.fetch()
        assert entry.source == "stdout"
        assert entry.object_id == call.object_id
        assert entry.context_ids[0] == call.object_id
        assert [name[:3] for name in entry.context_ids] == ["fc-", "in-", "ct-"]
        for entries in (say.logs.stream(timeout=20), app.logs.stream(timeout=20)):
            with ThreadPoolExecutor(1) as pool:
                heard = pool.submit(next, entries)
                wait_until(partial(heard_or_said, heard, say))
            assert str(heard.result()) == "again\n"
            entries.close()
        assert asyncio.run(gather(app.logs.stream.aio(timeout=0.05))) == []
        assert messages(other.logs.stream(0.05)) == []
        with pytest.raises(UnsupportedError, match="source='system'"):
            list(say.logs.tail(source="system"))
    with pytest.raises(squall.exception.ExecutionError, match="does not run"):
        app.logs.tail()
