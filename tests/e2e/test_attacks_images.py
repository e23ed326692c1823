"""Code in a container that may deploy reaches for images of another environment."""

from pathlib import Path

import pytest

import squall
from squall.model.specs import AppSpec, FunctionSpec, ImageSpec, Step
from squall.wire.deploys import Deploy

from .test_attacks_ephemeral import asked, attacking

pytestmark = pytest.mark.root


def named(image: str) -> Deploy:
    return Deploy(AppSpec("stolen", "stolen", (ImageSpec((Step("from_name", {"image": image}),)),), (FunctionSpec("f", "m", "f", 0),)), "main")


def test_names_of_images_are_of_the_containers_environment(data: Path) -> None:
    squall.Environment.objects.create("others")
    squall.Image.debian_slim().env({"TOKEN": "theirs"}).build().publish("private", environment_name="others")
    with attacking(may_deploy=True).run() as app:
        send = app.registered_functions["send"]
        stolen, none, plain = send.remote(asked(named("others::private"), named("main::private"), named("private")))
    assert stolen.startswith("permission_denied: a container deploys into its own environment, 'main', and not into 'others'"), stolen
    assert [answer.partition(":")[0] for answer in (none, plain)] == ["not_found"] * 2
    squall.Environment.objects.delete("others")
