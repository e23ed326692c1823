"""`squall image`: what was built, why, its logs, a look inside, room for new ones."""

import json
import textwrap
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from .terminal import Terminal

if TYPE_CHECKING:
    from .conftest import Runner

pytestmark = pytest.mark.root

#: Layers are kept between runs of these tests: what is to be built anew needs a mark of its own.
MARK = uuid.uuid4().hex[:8]

PROGRAM = """
    import squall

    app = squall.App("images")
    image = squall.Image.debian_slim("3.11").run_commands("echo {what} > /what", "echo built {what}").env({{"A": "1"}})
    small = squall.Image.from_scratch().env({{"A": "{what}"}})
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
    terminal = Terminal(squall, "image", "shell", "prog:1")
    terminal.until("# ")
    terminal.type("sleep 50\n")
    terminal.until("sleep 50\r\n")
    terminal.type("\x03")
    terminal.until("# ")
    terminal.type("echo $A$(cat /what | head -c 3)$((1 + 1)); tty\n")
    terminal.until("1one2")
    terminal.until("/tty")
    terminal.type("exit 5\n")
    assert terminal.end() == 5
    closed = Terminal(squall, "image", "shell", "prog:1")
    closed.until("# ")
    assert closed.end(hang_up=True) == 129  # that its container is gone, too, is seen after the last test
    (made,) = json.loads(squall("image", "build", f"{name}::small", "--json").stdout)
    exported = squall("image", "export", made["id"], f"oci:{tmp_path}/out:it")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out/index.json").exists()
    assert "write the whole path" in squall("image", "export", made["id"], "oci:").stderr
    unknown = squall("image", "inspect", "im-000000")
    assert (unknown.returncode, "there is no image" in unknown.stderr) == (1, True)


def test_a_failed_build_can_be_looked_into(squall: "Runner") -> None:
    name = squall.program("prog2.py", textwrap.dedent(PROGRAM.format(what=f"looked {MARK}")))
    failed = squall("image", "build", f"{name}::broken")
    assert failed.returncode == 1
    assert "exit code 9; it said last: oh no" in failed.stderr
    (row,) = [
        each
        for each in json.loads(squall("image", "list", "--json").stdout)
        if each["state"] == "failed" and squall("image", "logs", each["id"]).stdout.count(MARK)
    ]
    looked = squall("image", "shell", "--failed", row["id"], "-c", "cat /before")
    assert looked.stdout == "before\n", looked.stderr
    assert "oh no" in squall("image", "logs", row["id"]).stdout


def test_prune_keeps_what_is_named_and_what_deployed_functions_use(squall: "Runner") -> None:
    name = squall.program("prog3.py", textwrap.dedent(PROGRAM.format(what=f"to be pruned {MARK}")))
    squall("image", "build", name)
    squall("image", "build", name, "--publish", "kept")
    squall.program("prog4.py", textwrap.dedent(PROGRAM.format(what=f"gone {MARK}")))
    squall("image", "build", "prog4.py")
    squall.program("prog5.py", textwrap.dedent(PROGRAM.format(what=f"deployed {MARK}")).replace('App("images")', 'App("images-deployed")'))
    deployed = squall("deploy", "prog5.py")
    assert deployed.returncode == 0, deployed.stderr
    before = {row["recipe"]: row for row in json.loads(squall("image", "list", "--json").stdout)}
    gone = next(row for recipe, row in before.items() if f"echo gone {MARK}" in recipe)
    tried = json.loads(squall("image", "prune", "--dry-run", "--older-than", "7d", "--json").stdout)
    assert gone["id"] not in tried["images"]
    tried = json.loads(squall("image", "prune", "--dry-run", "--json").stdout)
    assert gone["id"] in tried["images"]
    used = next(row for recipe, row in before.items() if f"deployed {MARK}" in recipe)
    assert next(row for recipe, row in before.items() if f"to be pruned {MARK}" in recipe)["id"] not in tried["images"]
    assert (used["id"] in tried["images"], used["functions"]) == (False, ["f"])
    squall("app", "stop", "images-deployed")
    assert used["id"] in json.loads(squall("image", "prune", "--dry-run", "--json").stdout)["images"]
    assert squall("image", "prune", "--older-than", "soon").returncode == 1
