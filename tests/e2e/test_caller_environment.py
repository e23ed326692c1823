"""MODAL_ENVIRONMENT on the caller's side: runs, deployments and look-ups go to the environment that it names."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import squall
from squall.exception import NotFoundError
from squall.sdk.client.client import Client
from squall.wire.messages import ListApps, Rows


@pytest.fixture
def elsewhere(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    squall.Environment.objects.create("elsewhere")
    monkeypatch.delenv("SQUALL_ENVIRONMENT", raising=False)
    yield "elsewhere"
    monkeypatch.undo()
    for row in apps():
        if row["environment"] == "elsewhere" and row["state"] in ("running", "deployed", "stopping"):
            squall.App.lookup(row["id"]).stop()
    squall.Environment.objects.delete("elsewhere")


def apps() -> list[dict[str, str]]:
    answer = Client.default().request(ListApps())
    assert isinstance(answer, Rows)
    return list(answer.rows)


@pytest.mark.parametrize("way", ["MODAL_ENVIRONMENT", "SQUALL_ENVIRONMENT", "the file"])
def test_everything_goes_where_the_caller_says(elsewhere: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "the file":
        file = tmp_path / "modal.toml"
        file.write_text(f'[default]\nenvironment = "{elsewhere}"\n')
        monkeypatch.setenv("MODAL_CONFIG_PATH", str(file))
    else:
        monkeypatch.setenv(way, elsewhere)
    app = squall.App("by-variable")
    with app.run():
        ran = app.app_id
    app.deploy()
    squall.Dict.from_name("by-variable", create_if_missing=True)["x"] = 1
    found = squall.App.lookup("by-variable").app_id
    assert found != ran
    assert {row["environment"] for row in apps() if row["id"] in (ran, found)} == {elsewhere}
    assert [one.name for one in squall.Dict.objects.list()] == ["by-variable"]
    with pytest.raises(NotFoundError):
        squall.App.lookup("by-variable", environment_name="main")
    with pytest.raises(NotFoundError):
        squall.Dict.from_name("by-variable", environment_name="main").len()
