"""Attacks of one app's build on another's: what a step leaves for others to run, and layers that are given to whoever asks with other inputs."""

import base64
import pickle
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from squall.images.settings import ImageSettings
from squall.model.errors import ImageBuildError
from squall.model.specs import Step, VolumeMount
from squall.runtime.contract import Bind
from support.images import Studio, run, studio

pytestmark = pytest.mark.root
SIX = Step("pip_install", {"packages": ["six==1.16.0"]})
JQ = Step("apt_install", {"packages": ["jq"]})
#: A line for every copy of six that a step finds, in caches too.
POISON = 'for file in $(find / -name "six.py" -path "*/archive-v*" 2> /dev/null); do echo "POISON = 1" >> "$file"; done'


def shell(*lines: str) -> Step:
    """An image whose /bin/sh does this first: the steps of the builder run it."""
    text = "\n".join(("#!/bin/bash", *lines, 'exec /bin/dash "$@"'))
    return run(f"cat > /usr/local/bin/own <<'X'\n{text}\nX\nchmod 755 /usr/local/bin/own; ln -sf /usr/local/bin/own /bin/sh")


@pytest.fixture
async def it(tmp_path: Path) -> AsyncIterator[Studio]:
    """With caches of its own: what is written to them must not reach other tests."""
    async with studio(settings=ImageSettings(cache=tmp_path / "cache")) as made:
        yield made
        assert made.unfinished() == []


async def poisoned(it: Studio, *steps: Step) -> bool:
    image = await it.ensure(*steps)
    found = await it.run_in(image, "python", "-c", "import six; print(six.__version__, hasattr(six, 'POISON'))")
    assert found.startswith("1.16.0 ")
    return found.endswith("True\n")


async def test_a_command_does_not_change_what_another_build_installs(it: Studio) -> None:
    assert not await poisoned(it, run("true"), SIX)  # somebody has installed it, so that caches have it
    await it.ensure(run(POISON))
    assert not await poisoned(it, SIX)


async def test_a_step_of_uv_does_not_change_what_another_build_installs(it: Studio) -> None:
    """uv runs the image's shell and interpreter, and these are whatever the image's author likes."""
    assert not await poisoned(it, run("true"), SIX)
    await it.ensure(shell(POISON), SIX)
    assert not await poisoned(it, SIX)


async def test_a_step_of_apt_does_not_change_what_another_build_installs(it: Studio) -> None:
    await it.ensure(run("true"), JQ)
    with suppress(ImageBuildError):  # it damages its own, too
        await it.ensure(shell("for file in /.squall/build/archives/*.deb; do head -c 4096 /dev/zero | dd of=$file conv=notrunc status=none; done"), JQ)
    image = await it.ensure(JQ)
    assert (await it.run_in(image, "jq", "--version")).startswith("jq")


async def test_a_cache_mount_is_not_another_apps(it: Studio) -> None:
    line = "RUN --mount=type=cache,target=/c,id=shared test ! -e /c/evil && touch /c/evil # {}"
    for app in ("main/a", "main/b", "", ""):
        await it.ensure(Step("dockerfile_commands", {"commands": [line.format(len(it.events))]}), scope=app)


async def test_a_secret_does_not_make_a_layer_that_others_get(it: Studio) -> None:
    """Its value decides what the step does (an index of one's own, for example), and what is fetched with it is not for others."""
    values = {"st-evil": {"DO": "echo evil > /evil"}, "st-good": {"TOKEN": "of the good"}}

    async def resolve(references: Sequence[str]) -> dict[str, str]:
        return values[references[0]]

    it.builder.resolve = resolve
    step = 'eval "${DO:-}"; echo ${TOKEN:-} > /token'
    evil, good, plain = [(await it.ensure(run(step, secrets=names))).layers[-1] for names in (("st-evil",), ("st-good",), ())]
    assert [(layer / "evil").exists() for layer in (evil, good, plain)] == [True, False, False]
    assert [(layer / "token").read_text() for layer in (evil, good, plain)] == ["\n", "of the good\n", "\n"]


async def test_a_volume_does_not_make_a_layer_that_others_get(it: Studio, tmp_path: Path) -> None:
    for name in ("vo-a", "vo-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o755)
        (tmp_path / name / "file").write_text(name)
    it.builder.actions.mount = lambda mount: Bind(tmp_path / mount.volume, mount.path)
    found = [(await it.ensure(run("cp /v/file /copied", volumes=(VolumeMount("/v", name),)))).layers[-1] for name in ("vo-a", "vo-b")]
    assert [(layer / "copied").read_text() for layer in found] == ["vo-a", "vo-b"]


async def test_source_around_a_function_does_not_make_a_layer_that_others_get(it: Studio) -> None:
    """The function's own text is the same, and what it calls is another's."""
    call = base64.b64encode(pickle.dumps(((), {}))).decode()

    async def said(text: str, app: str) -> str:
        files = (it.file("/root/tool.py", f"def prepare():\n    helper()\n\ndef helper():\n    open('/said', 'w').write('{text}')\n".encode()),)
        image = await it.ensure(Step("run_function", {"module": "tool", "qualname": "prepare", "fingerprint": "f", "call": call}, files), scope=app)
        return (image.layers[-1] / "said").read_text()

    assert await said("one", "main/one") == "one"
    assert await said("two", "main/two") == "two"
    assert [await said(text, "") for text in ("three", "four")] == ["three", "four"]
    assert await said("changed", "main/one") == "one"  # of its own app, other changes of the module don't matter


async def test_squalls_own_library_is_not_made_by_another_image(it: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squall.images.carried.Carried.fits", lambda self, version: False)  # as on a host with another Python than the image
    evil = await it.ensure(shell("touch /.squall/lib/evil"))
    layers = [await it.builder.runner_layer(image) for image in (evil, await it.ensure(), await it.ensure(run("true")))]
    assert not any((layer / ".squall/lib/evil").exists() for layer in layers)
    assert len(set(layers)) == 1  # and it is still made once


async def test_a_step_without_a_network_does_not_make_the_layer_of_one_with(it: Studio) -> None:
    line = "RUN {}cat /proc/net/route > /route"
    found = [(await it.ensure(Step("dockerfile_commands", {"commands": [line.format(flag)]}))).layers[-1] for flag in ("--network=none ", "")]
    assert [len((layer / "route").read_text().splitlines()) > 1 for layer in found] == [False, True]
