"""The examples of docs/images.md: whole programs run, the others are declared and planned, and built where nothing from outside is missing."""

import re
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import squall
from squall.images import steps as _steps  # noqa: F401
from squall.images.expand import expand, no_names
from squall.images.recipe import plan
from squall.sdk.source.sources import Shipment

if TYPE_CHECKING:
    from .conftest import Runner

pytestmark = pytest.mark.root

TEXT = (Path(__file__).parents[2] / "docs/images.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PROGRAMS = [block for block in BLOCKS if "local_entrypoint" in block]
FRAGMENTS = [block for block in BLOCKS if "local_entrypoint" not in block]
PRINTED = {"words.py": "1.16.0 jq ready fast\n", "model.py": "xxx\n", "weights.py": "a\n"}
#: Images of fragments that are built, too. The others come from registries and indexes that are examples; their like is in `test_images_methods.py`.
BUILT = {"debian", "nothing", "listed", "project", "attached", "copied", "own", "secretive", "flagged", "begun", "lines"}
FILES = {
    "requirements.txt": "six\n",
    "pyproject.toml": '[project]\nname = "p"\nversion = "1"\ndependencies = ["six"]\n[project.optional-dependencies]\nplots = ["numpy"]\n',
    "uv.lock": "version = 1\n",
    "poetry/pyproject.toml": "[tool.poetry]\n",
    "poetry/poetry.lock": "",
    "data/a.txt": "a",
    "Dockerfile": "ARG VERSION=1\nFROM alpine:3.$VERSION\nCOPY data /data\nRUN echo $VERSION\n",
}


def test_there_are_examples() -> None:
    assert (len(PROGRAMS), len(FRAGMENTS)) == (3, 4)


@pytest.mark.parametrize("text", PROGRAMS, ids=lambda text: text.splitlines()[0])
def test_a_program_runs(squall: "Runner", text: str) -> None:
    name = squall.program(text.splitlines()[0].removeprefix("# "), text)
    done = squall("run", name)
    assert (done.returncode, done.stdout) == (0, PRINTED[name]), done.stderr


@pytest.mark.parametrize("text", FRAGMENTS, ids=lambda text: text.splitlines()[2].split(" ")[0])
def test_a_fragment_can_be_planned_and_built(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "example.py").write_text(text)
    images = {name: value for name, value in runpy.run_path("example.py").items() if isinstance(value, squall.Image)}
    assert len(images) >= 2
    for name, image in images.items():
        planned = plan(expand(image._spec(Shipment()), no_names))
        assert planned.layers, name
        if name in BUILT:
            assert image.build().object_id.startswith("im-")
