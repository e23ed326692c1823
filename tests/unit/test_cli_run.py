"""`squall run` up to the point where a server is needed, as users meet it: exit status, stdout, stderr of the installed command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import squall
app = squall.App("unit")
@app.function()
def f(x: int) -> int:
    '''Squares.'''
    return x * x
@app.function()
def g(): ...
@app.local_entrypoint()
def main(n: int = 20, *, loud: bool = False):
    '''The beginning.'''
"""


def squall(cwd: Path, *argv: str) -> tuple[int, str, str]:
    # An address that nobody listens at: nothing here may need a server, or start one.
    env = {key: value for key, value in os.environ.items() if not key.startswith("SQUALL_")} | {
        "SQUALL_SERVER_URL": f"unix://{cwd}/none.sock",
        "COLUMNS": "200",
    }
    command = [str(Path(sys.executable).parent / "squall"), *argv]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def test_help_of_run(here: Path) -> None:
    status, out, err = squall(here, "run", "--help")
    assert (status, err) == (0, "")
    assert "--detach" in out


def test_help_of_targets(here: Path) -> None:
    for target, says in (
        ("program.py", "The beginning."),
        ("program.py::main", "--loud, --no-loud"),
        ("program.py::f", "Squares."),
        ("program.py::app.f", "--x INTEGER"),
    ):
        status, out, err = squall(here, "run", target, "--help")
        assert (status, err) == (0, "")
        assert says in out


@pytest.mark.parametrize(
    ("argv", "status", "says"),
    [
        (["run"], 2, "say what to run"),
        (["run", "--nope", "program.py"], 2, "no option '--nope'"),
        (["run", "missing.py"], 1, "there is no file 'missing.py'"),
        (["run", "program"], 1, "squall run -m program"),
        (["run", "-m", "missing.mod"], 1, "there is no module 'missing.mod'"),
        (["run", "program.py::nope"], 1, "squall run program.py::main\n"),
        (["run", "program.py", "--n", "x"], 2, "invalid int value: 'x'"),
        (["run", "program.py::f"], 2, "--x"),
        (["run", "-m", "program::f", "--x", "1.5"], 2, "invalid int value"),
        (["app", "nope"], 2, "nope"),
    ],
)
def test_wrong_use(here: Path, argv: list[str], status: int, says: str) -> None:
    found, out, err = squall(here, *argv)
    assert (found, out) == (status, "")
    assert says in err
    assert "Traceback" not in err


def test_several_entrypoints_are_listed(here: Path) -> None:
    (here / "two.py").write_text(PROGRAM + "\n@app.local_entrypoint()\ndef second(): ...\n")
    status, _, err = squall(here, "run", "two.py")
    assert status == 2
    assert err == (
        "✗ two.py has several local entrypoints. Choose one:\n"
        "  squall run two.py::main\n  squall run two.py::second\n  squall run two.py::f\n  squall run two.py::g\n"
    )


TARGETS = """
import squall
app = squall.App()
other = squall.App("other")

@app.function()
def f(): ...

@other.function()
@squall.fastapi_endpoint()
def web(): ...

@other.cls()
class C:
    @squall.method()
    def m(self): ...
    @squall.asgi_app()
    def site(self): ...

@other.cls()
class Two:
    @squall.method()
    def one(self): ...
    @squall.method()
    def two(self): ...

def plain(): ...
handle = app.function(name="named")(plain)
Big = C.with_options(cpu=2)
small = f.with_options(cpu=1)
"""


def test_what_a_target_can_be_called(here: Path) -> None:
    (here / "targets.py").write_text(TARGETS)
    names = ["f", "app.f", "C", "other.C", "C.site", "named", "handle", "Big", "Big.m", "small", "web"]
    code = f"from squall.cli.program.loader import find; import targets; print(*(find(targets, name, 'targets.py').name for name in {names!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("f f C.m C.m C.site named named C.m C.m f web\n", "")


def test_what_is_unclear_or_not_there(here: Path) -> None:
    (here / "targets.py").write_text(TARGETS)
    for name, status, says in (
        ("Two", 2, "targets.py has several methods in Two. Choose one:\n  squall run targets.py::Two.one\n  squall run targets.py::Two.two\n"),
        ("app", 2, "several functions and no local entrypoint. Choose one:\n  squall run targets.py::f\n  squall run targets.py::named\n"),
        ("app.C", 1, "targets.py has no 'app.C' that can be run. Choose one:\n  squall run targets.py::f\n"),
        ("plain", 1, "has no 'plain'"),
        ("nowhere.f", 1, "has no 'nowhere.f'"),
    ):
        found, _, err = squall(here, "run", f"targets.py::{name}")
        assert (found, says in err) == (status, True), err


def test_a_program_without_app(here: Path) -> None:
    (here / "none.py").write_text("x = 1\n")
    assert squall(here, "run", "none.py") == (1, "", "✗ none.py has no app; a program has one at its top:  app = squall.App()\n")


def test_an_error_at_import_is_the_users_traceback(here: Path) -> None:
    (here / "broken.py").write_text("def f():\n    return 1 / 0\n\nf()\n")
    status, out, err = squall(here, "run", "broken.py")
    assert (status, out) == (1, "")
    assert err.splitlines()[0] == "Traceback (most recent call last):"
    assert 'File "broken.py", line 4, in <module>' in err
    assert 'File "broken.py", line 2, in f' in err
    assert err.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "squall/cli" not in err
    assert "importlib" not in err


def test_a_syntax_error_shows_its_line_only(here: Path) -> None:
    (here / "syntax.py").write_text("def f(:\n")
    status, _, err = squall(here, "run", "syntax.py")
    assert status == 1
    assert "syntax.py" in err
    assert "squall/cli" not in err
    assert err.splitlines()[-1].startswith("SyntaxError")


def test_a_wrong_parameter_says_where(here: Path) -> None:
    (here / "wrong.py").write_text("import squall\napp = squall.App()\n@app.function(timeout=-5)\ndef f(): ...\n")
    status, _, err = squall(here, "run", "wrong.py")
    assert status == 1
    assert err == "✗ timeout=-5 is not a number of seconds from 1 to 86400\n  at wrong.py:3 in <module>\n"


def test_a_file_that_hides_a_module(here: Path) -> None:
    (here / "argparse.py").write_text(PROGRAM)
    status, _, err = squall(here, "run", "argparse.py")
    assert status == 1
    assert "rename the file" in err


def test_a_file_of_a_package(here: Path) -> None:
    (here / "pkg").mkdir()
    (here / "pkg" / "__init__.py").write_text("")
    (here / "pkg" / "helper.py").write_text("")
    (here / "pkg" / "program.py").write_text("from . import helper\n" + PROGRAM)
    status, _, err = squall(here, "run", "pkg/program.py")
    assert status == 1
    assert "squall run -m pkg.program" in err
    assert squall(here, "run", "-m", "pkg.program", "--help")[0] == 0


def test_no_server_is_one_paragraph(here: Path) -> None:
    status, out, err = squall(here, "run", "program.py")
    assert (status, out) == (1, "")
    assert err.startswith("✗ no server answers at ")
    assert "Traceback" not in err


def test_other_commands_start_no_server(here: Path) -> None:
    assert squall(here, "--version") == (0, "squall 0.1.0\n", "")
    status, out, err = squall(here, "server", "status")
    assert (status, out) == (1, "")
    assert err.startswith("✗ no server answers at ")
    assert squall(here, "--help")[0] == 0


def test_nothing_slow_is_imported_before_the_users_code(here: Path) -> None:
    (here / "program.py").write_text("import sys, json; print(json.dumps(sorted(sys.modules))); sys.exit(0)")
    status, out, _ = squall(here, "run", "program.py")
    assert status == 0
    slow = {"typer", "rich", "cloudpickle", "sqlalchemy", "pyroute2", "uvloop", "squall.gateway", "email", "http.client"}
    assert [name for name in slow if f'"{name}"' in out] == []
