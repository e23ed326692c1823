"""Settings and profiles of the command line, requests with a token, and what is refused by its name."""

import json
import stat
import subprocess
from pathlib import Path

import pytest

from squall.cli.commands.unsupported import COMMANDS

from .conftest import Runner

pytestmark = pytest.mark.root

PROGRAM = """
import squall

app = squall.App("guarded")

@app.function()
@squall.wsgi_app(requires_proxy_auth=True)
def guarded():
    def answer(environ, start):
        start("200 OK", [])
        return [b"let in"]

    return answer
"""


@pytest.fixture
def settled(squall: Runner, tmp_path: Path) -> Runner:
    """With a settings' file of its own, of two profiles."""
    path = tmp_path / "modal.toml"
    path.write_text('[one]\ntoken_secret = "as-\\"x"\nactive = true\n\n[two]\nenvironment = "dev"\n')
    squall.extra["MODAL_CONFIG_PATH"] = str(path)
    assert squall("server", "start").returncode == 0
    return squall


def test_profiles(settled: Runner, tmp_path: Path) -> None:
    assert settled("profile", "current").stdout == "one\n"
    assert settled("--profile", "two", "profile", "current").stdout == "two\n"
    assert json.loads(settled("--profile", "two", "config", "show", "--json").stdout)["environment"] == "dev"
    assert settled("profile", "activate", "two").returncode == 0
    assert [(row["name"], row["active"]) for row in json.loads(settled("profile", "list", "--json").stdout)] == [("one", False), ("two", True)]
    text = (tmp_path / "modal.toml").read_text()
    assert 'token_secret" = "as-\\"x"' in text, "what others keep in the file stays"
    assert stat.S_IMODE((tmp_path / "modal.toml").stat().st_mode) == 0o600
    for argv in (["profile", "activate", "three"], ["--profile", "three", "app", "list"]):
        wrong = settled(*argv)
        assert wrong.returncode == 1
        assert "it has one, two" in wrong.stderr


def test_the_default_environment(settled: Runner) -> None:
    wrong = settled("config", "set-environment", "nowhere")
    assert wrong.returncode == 1
    assert "squall environment list" in wrong.stderr
    settled("environment", "create", "settled")
    assert settled("config", "set-environment", "settled").returncode == 0
    assert json.loads(settled("config", "show", "--json").stdout)["environment"] == "settled"
    settled("config", "set", "environment", "main")
    assert settled("config", "set", "token_id", "x").returncode == 2
    settled("environment", "delete", "settled", "--yes")


def test_which_server_and_which_token(settled: Runner) -> None:
    settled.extra["SQUALL_TOKEN"] = "very-secret"
    shown = settled("config", "show").stdout
    assert "very-secret" not in shown + settled("token", "info").stdout
    assert "very-secret" in settled("config", "show", "--no-redact").stdout
    assert settled("setup").returncode == 0


def test_a_request_with_a_token_that_ends_with_it(settled: Runner) -> None:
    settled.program("guarded.py", PROGRAM)
    deployed = settled("deploy", "-q", "guarded.py")
    assert deployed.returncode == 0, deployed.stderr
    url = deployed.stdout.strip()
    assert subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url], capture_output=True, text=True, check=False).stdout == "401"
    assert settled("curl", "-s", url).stdout == "let in"
    assert "squall curl" not in settled("token", "list").stdout
    settled("app", "stop", "guarded")


@pytest.mark.parametrize("words", [*COMMANDS, "token new", "token set", "token rotate"])
def test_what_has_no_meaning_here_is_refused_by_its_name(settled: Runner, words: str) -> None:
    ran = settled(*words.split(), "--json", "something")
    assert ran.returncode == 2
    assert f"squall {words} is not supported: " in ran.stderr


def test_names_of_images_and_what_changed(settled: Runner) -> None:
    assert json.loads(settled("image", "names", "list", "--prefix", "no-such", "--json").stdout) == []
    gone = settled("image", "names", "delete", "no-such")
    assert gone.returncode == 1
    assert "no-such" in gone.stderr
    assert settled("changelog").stdout.startswith("## 0.")
