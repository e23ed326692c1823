"""Names of Modal's that ask the server, against a real one: the twins of `lookup`, `from_id` and of item access, handles that know their client."""

import asyncio
import pickle
from pathlib import Path
from typing import Any

import calling
import pytest

import squall
from squall.exception import InvalidError, NotFoundError

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
