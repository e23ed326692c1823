"""Code in containers with restrict_modal_access=True reaches for the server."""

from pathlib import Path
from typing import Any

import pytest

import squall
from squall.exception import InvalidError

pytestmark = pytest.mark.root


def app_of(store: squall.Volume, restricted: bool) -> tuple[squall.App, Any, Any]:
    app = squall.App("restricted")

    @app.function(serialized=True)
    def other() -> str:
        return "called"

    @app.function(serialized=True, volumes={"/kept": store}, env={"GIVEN": "yes"}, restrict_modal_access=restricted)
    def reach(what: str) -> Any:
        import os
        from pathlib import Path

        import squall

        if what == "mounted":
            Path("/kept/file").write_text(os.environ["GIVEN"])
            return Path("/kept/file").read_text()
        try:
            match what:
                case "call":
                    return other.remote()
                case "spawn":
                    return other.spawn().get()
                case "dict":
                    with squall.Dict.ephemeral() as entries:
                        entries["a"] = "put"
                        return entries["a"]
                case "commit":
                    squall.Volume.from_name("kept-by-restricted").commit()
                    return "committed"
        except squall.exception.PermissionDeniedError as error:
            return str(error)

    return app, reach, other


@pytest.mark.parametrize("restricted", [True, False])
def test_a_restricted_function_has_its_inputs_and_mounts_and_no_server(data: Path, restricted: bool) -> None:
    store = squall.Volume.from_name("kept-by-restricted", create_if_missing=True)
    app, reach, _ = app_of(store, restricted)
    with app.run():
        assert reach.remote("mounted") == "yes"
        said = {what: reach.remote(what) for what in ("call", "spawn", "dict", "commit")}
        variant = reach.with_options(env={"MORE": "1"}).remote("dict")
    refused = "code in containers of reach may not talk to the server: restrict_modal_access=True"
    assert said == (dict.fromkeys(said, refused) if restricted else {"call": "called", "spawn": "called", "dict": "put", "commit": "committed"})
    assert variant == (refused.replace("reach", "reach with options") if restricted else "put")


def test_it_can_not_both_deploy_and_be_restricted() -> None:
    with pytest.raises(InvalidError, match="may_deploy=True needs"):
        squall.App("both").function(may_deploy=True, restrict_modal_access=True)
