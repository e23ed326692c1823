"""Every builder method that can be had here, in programs as users write them: built, and a function run in what it makes."""

import json
import textwrap
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from building import look, prepare, prepare_async

import squall
from squall.exception import ImageBuildError, InvalidError, NotFoundError

if TYPE_CHECKING:
    from .conftest import Runner

pytestmark = pytest.mark.root

BASE = squall.Image.debian_slim("3.11")


def inside(image: squall.Image, *commands: str) -> str:
    """What commands print in a function's container of the image."""
    app = squall.App()
    function = app.function(image=image)(look)
    with app.run():
        found = function.remote(list(commands))
    assert isinstance(found, str)
    return found


def test_functions_run_while_building(data: Path) -> None:
    secret = squall.Secret.from_dict({"TOKEN": "abcdef-123"})
    image = BASE.run_function(prepare, args=("here",), kwargs={"times": 2}, secrets=[secret], env={"MODE": "fast"}, gpu="T4").run_function(prepare_async)
    assert inside(image, "cat /here; echo; cat /async; echo; env | grep -c TOKEN") == "made made 3 abc fast False\nmade 3  None False\n0\n"
    for path in (*data.glob("layers/*/log"), *data.glob("layers/*/*.json"), *data.glob("images/*.json")):
        assert "abcdef-123" not in path.read_text(errors="replace"), path


def test_projects(data: Path, tmp_path: Path) -> None:
    project = '[project]\nname = "p"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["six==1.16.0"]\n'
    project += '[project.optional-dependencies]\nmore = ["iniconfig"]\n'
    (tmp_path / "pyproject.toml").write_text(project)
    image = BASE.pip_install_from_pyproject(str(tmp_path / "pyproject.toml"), ["more"])
    assert inside(image, "python -c 'import six, iniconfig; print(six.__version__)'") == "1.16.0\n"
    with pytest.raises(InvalidError, match="there is no uv.lock"):
        inside(BASE.uv_sync(str(tmp_path)))
    synced = BASE.uv_sync(str(tmp_path), frozen=False, extras=["more"])
    assert inside(synced, "python -c 'import six, iniconfig; print(six.__version__)'") == "1.16.0\n"
    with pytest.raises(InvalidError, match="no optional dependencies nothing; it has more"):
        inside(BASE.pip_install_from_pyproject(str(tmp_path / "pyproject.toml"), ["nothing"]))


def test_dockerfiles(data: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("in")
    (tmp_path / "left.txt").write_text("left")
    (tmp_path / ".dockerignore").write_text("left.txt\n")
    image = BASE.dockerfile_commands("COPY . /all/", ["ARG A", "RUN echo $A > /a", "ENV B=$A"], context_dir=tmp_path, build_args={"A": "x"})
    assert inside(image, "ls /all; cat /a; echo $B") == "in.txt\nx\nx\n"
    named = BASE.dockerfile_commands(["COPY given.txt /g"], context_files={"given.txt": str(tmp_path / "left.txt")})
    assert inside(named, "cat /g") == "left"
    scratch = tmp_path / "Dockerfile"
    scratch.write_text("FROM scratch\nCOPY in.txt /in.txt\n")
    with pytest.raises(InvalidError, match="has no Python"):
        inside(squall.Image.from_dockerfile(scratch))
    with pytest.raises(InvalidError, match="line 2: 'COPPY'"):
        scratch.write_text("FROM scratch\nCOPPY x /x\n")
        squall.Image.from_dockerfile(scratch).build()


def test_names_and_ids(data: Path) -> None:
    image = BASE.run_commands("echo named > /named").build()
    assert image.object_id.startswith("im-")
    image.publish("team/named:v1")
    assert inside(squall.Image.from_name("team/named:v1").env({"A": "1"}), "cat /named; echo $A") == "named\n1\n"
    assert inside(squall.Image.from_id(image.object_id), "cat /named") == "named\n"
    with pytest.raises(NotFoundError, match="no image 'nobody'"):
        inside(squall.Image.from_name("nobody"))


def test_forced_steps_are_built_at_every_run(data: Path) -> None:
    image = BASE.run_commands("cat /proc/sys/kernel/random/uuid > /uuid", force_build=True)
    first, second = inside(image, "cat /uuid"), inside(image, "cat /uuid")
    assert len(first) == 37
    assert first != second


def test_build_environment_is_not_the_containers(data: Path) -> None:
    assert inside(BASE.run_commands("echo $X > /x", env={"X": "built"}), "cat /x; echo [$X]") == "built\n[]\n"


def test_private_repositories_need_a_token_that_stays_outside(data: Path) -> None:
    with pytest.raises(InvalidError, match="GITHUB_TOKEN"):
        BASE.pip_install_private_repos("github.com/a/b", git_user="me")
    secret = squall.Secret.from_dict({"GITHUB_TOKEN": "tok-zzz-1"})
    image = BASE.pip_install_private_repos("github.com.invalid/a/b", git_user="me", secrets=[secret])
    with pytest.raises(ImageBuildError) as caught:
        image.build()
    assert caught.value.step == "pip_install_private_repos github.com.invalid/a/b"
    assert "tok-zzz-1" not in caught.value.log_tail + str(caught.value)


#: Layers are kept between runs of these tests: what is to be built anew needs a mark of its own.
MARK = uuid.uuid4().hex[:8]

PROGRAM = """
    import squall

    app = squall.App("images")
    image = squall.Image.debian_slim("3.11").run_commands("echo {what} > /what", "echo built {what}").env({{"A": "1"}})
    broken = image.run_commands("echo before > /before").run_commands("echo oh no; exit 9")

    @app.function(image=image)
    def f():
        return open("/what").read()
"""


def test_the_command_line_knows_images(squall: "Runner", tmp_path: Path) -> None:
    name = squall.program("prog.py", textwrap.dedent(PROGRAM.format(what=f"one {MARK}")))
    explained = json.loads(squall("image", "explain", f"{name}::image", "--json").stdout)
    assert [(row["step"], row["hit"]) for row in explained] == [(1, True), (2, False)]
    built = squall("image", "build", name, "--json", "--publish", "prog:1")
    assert built.returncode == 0, built.stderr
    (row,) = json.loads(built.stdout)
    assert row["name"] == "f"
    assert "hit" in squall("image", "explain", name).stdout.splitlines()[2]
    (listed,) = [each for each in json.loads(squall("image", "list", "--json").stdout) if each["id"] == row["id"]]
    assert listed["names"] == ["prog:1"]
    assert row["id"][:15] in squall("image", "list").stdout
    shown = json.loads(squall("image", "inspect", "prog:1", "--json").stdout)
    assert [layer["title"].split(" ")[0] for layer in shown["layers"]] == ["debian_slim", "run_commands"]
    assert shown["env"]["A"] == "1"
    assert squall("image", "inspect", row["id"][:12]).returncode == 0
    assert f"built one {MARK}" in squall("image", "logs", "prog:1").stdout
    squall.program("prog.py", textwrap.dedent(PROGRAM.format(what=f"two {MARK}")))
    (reason,) = [each["reason"] for each in json.loads(squall("image", "explain", name, "--json").stdout) if not each["hit"]]
    assert f"-echo one {MARK} > /what" in reason
    assert f"+echo two {MARK} > /what" in reason
    looked = squall("image", "shell", "prog:1", "-c", "cat /what; echo $A; touch /new; exit 4")
    assert (looked.stdout, looked.returncode) == (f"one {MARK}\n1\n", 4), looked.stderr
    exported = squall("image", "export", "prog:1", f"oci:{tmp_path}/out:it")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out/index.json").exists()
    unknown = squall("image", "inspect", "im-000000")
    assert (unknown.returncode, "there is no image" in unknown.stderr) == (1, True)


def test_a_failed_build_can_be_looked_into(squall: "Runner") -> None:
    name = squall.program("prog2.py", textwrap.dedent(PROGRAM.format(what=f"looked {MARK}")))
    failed = squall("image", "build", f"{name}::broken")
    assert failed.returncode == 1
    assert "exit code 9: oh no" in failed.stderr
    (row,) = [
        each
        for each in json.loads(squall("image", "list", "--json").stdout)
        if each["state"] == "failed" and squall("image", "logs", each["id"]).stdout.count(MARK)
    ]
    looked = squall("image", "shell", "--failed", row["id"], "-c", "cat /before")
    assert looked.stdout == "before\n", looked.stderr
    assert "oh no" in squall("image", "logs", row["id"]).stdout


def test_prune_keeps_what_is_named(squall: "Runner") -> None:
    name = squall.program("prog3.py", textwrap.dedent(PROGRAM.format(what=f"to be pruned {MARK}")))
    squall("image", "build", name)
    squall("image", "build", name, "--publish", "kept")
    squall.program("prog4.py", textwrap.dedent(PROGRAM.format(what=f"gone {MARK}")))
    squall("image", "build", "prog4.py")
    before = {row["recipe"]: row for row in json.loads(squall("image", "list", "--json").stdout)}
    gone = next(row for recipe, row in before.items() if f"echo gone {MARK}" in recipe)
    tried = json.loads(squall("image", "prune", "--dry-run", "--older-than", "7d", "--json").stdout)
    assert gone["id"] not in tried["images"]
    tried = json.loads(squall("image", "prune", "--dry-run", "--json").stdout)
    assert gone["id"] in tried["images"]
    assert next(row for recipe, row in before.items() if f"to be pruned {MARK}" in recipe)["id"] not in tried["images"]
    assert squall("image", "prune", "--older-than", "soon").returncode == 1
