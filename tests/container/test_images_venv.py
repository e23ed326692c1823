"""Images without containers: a virtual environment for the process driver."""

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from squall.model.errors import ImageBuildError, UnsupportedError
from squall.model.specs import Step
from squall.runtime.process import ProcessDriver
from support.containers import drop, free_folder
from support.images import Studio, recipe, run, studio

SIX = Step("pip_install", {"packages": ["six==1.16.0"]})


@pytest.fixture
async def it() -> AsyncIterator[Studio]:
    folder = free_folder()
    try:
        async with studio(base=False, driver=ProcessDriver(run=folder / "run", data=folder / "data", instance="venvtest")) as made:
            yield made
            assert made.unfinished() == []
    finally:
        drop(folder)


def python(program: str, *argv: str) -> str:
    return subprocess.run([program, *argv], capture_output=True, text=True, check=True).stdout


async def test_packages_and_version(it: Studio) -> None:
    image = await it.ensure(SIX, Step("env", {"vars": {"A": "1"}}))
    assert it.builder.peek(recipe(SIX, Step("env", {"vars": {"A": "1"}}))) == image
    assert image.layers == ()
    assert image.env["A"] == "1"
    assert python(image.python, "-c", "import six, sys; print(six.__version__, sys.version_info[:2])") == "1.16.0 (3, 11)\n"
    assert [event.state for event in it.events if event.state != "log"] == ["start", "done"]


async def test_files_become_layers(it: Studio) -> None:
    image = await it.ensure(SIX, Step("add_local_file", {}, (it.file("/root/x.txt", b"x"),)))
    assert [(layer / "root/x.txt").read_text() for layer in image.layers] == ["x"]
    # The environment is that of the image without the file.
    assert Path(image.python) == Path((await it.ensure(SIX)).python)


@pytest.mark.parametrize("step", [Step("apt_install", {"packages": ["jq"]}), run("true")])
async def test_what_needs_a_container_is_refused_by_name(it: Studio, step: Step) -> None:
    with pytest.raises(UnsupportedError, match=f"step 3 of the image, {step.kind} .*needs containers"):
        await it.ensure(SIX, step)
    assert it.built() == set()


async def test_failing_package(it: Studio) -> None:
    with pytest.raises(ImageBuildError, match="no version of squall-no-such-package-nampy") as caught:
        await it.ensure(Step("pip_install", {"packages": ["squall-no-such-package-nampy"]}), SIX)
    assert (caught.value.exit_code, caught.value.step_index, caught.value.step) == (1, 2, "pip_install squall-no-such-package-nampy")
    assert it.built() == set()


async def test_runner_layer(it: Studio) -> None:
    image = await it.ensure()
    library = await it.builder.runner_layer(image) / ".squall/lib"
    code = f"import sys; sys.path.insert(0, {str(library)!r}); import msgspec, squall.wire.messages as m; print(m.__file__)"
    assert python(image.python, "-c", code) == f"{library}/squall/wire/messages.py\n"
