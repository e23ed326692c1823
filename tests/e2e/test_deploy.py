"""Deployments as users meet them: versions, redeploys under load, restarts of the server, rollbacks. On a server of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from squall.exception import InvalidError, NotFoundError, PermissionDeniedError
from squall.sdk.client.client import Client
from squall.sdk.function.function import Function
from support.waiting import wait_until

from .conftest import Runner, make_data_directory, server_pid, stop_server

pytestmark = pytest.mark.root

PROGRAM = """
import time
import squall

app = squall.App({name!r})

@app.function(max_containers=2{options})
def version() -> str:
    return {version!r}

@app.function()
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return {version!r}

@app.function()
def count(n: int):
    for i in range(n):
        yield i
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Runner]:
    """A command runner with a server, and state, of its own; this process's client is of that server too."""
    data = make_data_directory()
    before = os.environ.get("SQUALL_DATA_DIR")
    os.environ["SQUALL_DATA_DIR"], Client._default = str(data), None
    yield Runner(data, tmp_path)
    Client.default().close_idle()
    Client._default = None
    if before is None:
        del os.environ["SQUALL_DATA_DIR"]
    else:
        os.environ["SQUALL_DATA_DIR"] = before
    stop_server(data)
    shutil.rmtree(data)


def deploy(own: Runner, version: str, *flags: str, name: str = "app", options: str = "", text: str | None = None) -> "subprocess.CompletedProcess[str]":
    own.program("program.py", text if text is not None else PROGRAM.format(name=name, version=version, options=options))
    return own("deploy", "program.py", *flags)


def test_a_deployed_function_is_called_by_name_and_goes_on_over_restarts_and_kills(own: Runner) -> None:
    done = deploy(own, "one", "--tag", "abc123")
    assert done.returncode == 0, done.stderr
    assert "app version 1 is live" in done.stderr
    assert "+ version  new" in done.stderr
    assert done.stdout == ""
    function = Function.from_name("app", "version")
    assert function.remote() == "one"
    assert list(Function.from_name("app", "count").remote_gen(3)) == [0, 1, 2]
    # Another program, which has none of the code.
    other = subprocess.run(
        [sys.executable, "-c", "import squall; print(squall.Function.from_name('app', 'version').remote())"], env=own.env, capture_output=True, text=True
    )
    assert other.stdout == "one\n", other.stderr
    stop_server(own.data)
    assert function.remote() == "one"  # the server was started by this call, and took the app up again
    spawned = Function.from_name("app", "slow").spawn(1.0)
    os.kill(server_pid(own), signal.SIGKILL)
    assert spawned.get(timeout=60) == "one"
    rows = own("app", "list", "--json").stdout
    assert '"deployed"' in rows
    history = own("app", "history", "app")
    assert "abc123" in history.stdout
    assert "live" in history.stdout


def test_a_redeploy_under_load_loses_no_call(own: Runner) -> None:
    assert deploy(own, "1").returncode == 0
    function = Function.from_name("app", "version")
    function.remote()
    stop, answers, failures = threading.Event(), [], []

    def call() -> None:
        while not stop.is_set():
            try:
                answers.append(function.remote())
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    waiting = [Function.from_name("app", "slow").spawn(0.5) for _ in range(4)]
    for version in ("2", "3", "4"):
        done = deploy(own, version)
        assert done.returncode == 0, done.stderr
        assert function.remote() == version  # who calls after the deployment gets the new version
    # A call of these threads that began before the last deployment may still bring an older answer; the next one does not.
    wait_until(lambda: failures or "4" in answers, "an answer of the last version")
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(answers) >= {"1", "4"}
    assert len(answers) > 100  # there was load; how much is the machine's
    assert all(call.get(timeout=60) in "1234" for call in waiting)
    wait_until(lambda: len([line for line in own("container", "list").stdout.splitlines() if " version " in line]) <= 2, "the end of the versions before")


def test_recreate_lets_no_two_versions_run_at_once(own: Runner) -> None:
    assert deploy(own, "1").returncode == 0
    version, slow, count = (Function.from_name("app", name) for name in ("version", "slow", "count"))
    items = count.remote_gen(2)
    assert next(items) == 0  # its container drains over the rolling deployment below, and is ended by the one after that
    assert deploy(own, "2").returncode == 0
    running = slow.spawn(0.5)
    assert version.remote() == "2"
    done = deploy(own, "3", "--strategy", "recreate")
    assert done.returncode == 0, done.stderr
    assert version.remote() == "3"
    assert running.get(timeout=60) in ("2", "3")  # if it was not through, it has run again
    rows = json.loads(own("container", "list", "--all", "--json").stdout)
    for function in ("version", "slow", "count"):
        live = [row["created_at"] for row in rows if row["function"] == function and row["state"] != "stopped"]
        ends = [row["stopped_at"] for row in rows if row["function"] == function and row["stopped_at"] is not None]
        assert len(live) <= 1
        assert all(end <= start for start in live for end in ends)
    assert list(count.remote_gen(2)) == [0, 1]


def test_a_version_that_does_not_start_leaves_the_one_before(own: Runner) -> None:
    assert deploy(own, "1").returncode == 0
    function = Function.from_name("app", "version")
    assert function.remote() == "1"
    broken = deploy(own, "2", text=PROGRAM.format(name="app", version="2", options="") + "\nif not squall.is_local():\n    raise RuntimeError('kaboom')\n")
    assert broken.returncode == 1
    assert "kaboom" in broken.stderr
    assert "the version before goes on" in broken.stderr
    assert function.remote() == "1"
    syntax = deploy(own, "3", text="import squall\napp = squall.App('app'\n")
    assert syntax.returncode == 1
    assert "SyntaxError" in syntax.stderr
    assert function.remote() == "1"
    assert '"version": 1' in own("app", "history", "app", "--json").stdout


def test_a_deploy_says_what_it_changes(own: Runner) -> None:
    first = deploy(own, "1", options=", min_containers=1")
    assert "keeps running when idle: version  1 container: 0.125 cores, 128 MiB" in first.stderr, first.stderr
    again = deploy(own, "1", options=", min_containers=1")
    assert "nothing changes" in again.stderr, again.stderr
    changed = deploy(own, "2", options=", memory=256, schedule=squall.Cron('0 9 * * *', timezone='Europe/Paris')")
    assert "~ version" in changed.stderr, changed.stderr
    assert "code changed" in changed.stderr
    assert "memory 128 MiB → 256 MiB" in changed.stderr
    assert "min_containers 1 → 0" in changed.stderr
    assert "schedule 0 9 * * * Europe/Paris → next run" in changed.stderr
    less = deploy(own, "3", text="import squall\napp = squall.App('app')\n@app.function()\ndef version():\n    return '3'\n")
    assert "- slow" in less.stderr
    with pytest.raises(NotFoundError, match="has no 'slow'"):
        Function.from_name("app", "slow").remote(0)
    assert Function.from_name("app", "version").remote() == "3"


def test_rollback(own: Runner) -> None:
    for version in ("1", "2"):
        assert deploy(own, version).returncode == 0
    function = Function.from_name("app", "version")
    assert function.remote() == "2"
    variant = function.with_options(max_containers=1)
    assert variant.remote() == "2"
    back = own("app", "rollback", "app")
    assert "version 3 is live" in back.stderr, back.stderr
    assert function.remote() == "1"
    assert variant.remote() == Function.from_name("app", "version").with_options(max_containers=1).remote() == "1"
    stop_server(own.data)
    assert variant.remote() == "1"  # made anew for the version that is live
    assert own("app", "rollback", "app", "v2").returncode == 0
    assert function.remote() == "2"
    wrong = own("app", "rollback", "app", "17")
    assert wrong.returncode == 1
    assert "no version 17" in wrong.stderr
    assert "rollback to 1" in own("app", "history", "app").stdout
    assert variant.remote() == "2"
    assert own("app", "rename", "app", "other").returncode == 0
    assert Function.from_name("other", "version").remote() == "2"
    assert deploy(own, "3", name="other", text=PROGRAM.format(name="other", version="3", options="").replace("def version", "def renamed")).returncode == 0
    with pytest.raises(NotFoundError):
        variant.remote()
    with pytest.raises(NotFoundError):
        Function.from_name("app", "version").remote()
    assert own("app", "stop", "other").returncode == 0
    with pytest.raises(NotFoundError):
        Function.from_name("other", "version").remote()


def test_a_rollback_to_a_version_whose_image_is_gone(own: Runner) -> None:
    mark = uuid.uuid4().hex
    text = "import squall\napp = squall.App('app')\nimage = squall.Image.debian_slim().run_commands('echo {0} >/made')\n"
    text += "@app.function(image=image)\ndef read():\n    return open('/made').read().strip()\n"
    assert own("environment", "create", "other").returncode == 0
    for version in ("first", "second"):
        done = deploy(own, version, "--env", "other", text=text.format(f"{version} {mark}"))
        assert done.returncode == 0, done.stderr
    function = Function.from_name("app", "read", environment_name="other")
    assert function.remote() == f"second {mark}"
    assert "no app 'app' is deployed in the environment 'main'" in own("app", "rollback", "app").stderr
    (made,) = [path for path in (own.data / "layers").glob("*/fs/made") if path.read_text() == f"first {mark}\n"]
    shutil.rmtree(made.parents[1])
    back = own("app", "rollback", "app", "--env", "other", "--strategy", "recreate")
    assert back.returncode == 0, back.stderr
    assert function.remote() == f"first {mark}"
    assert "rollback to 1" in own("app", "history", "app", "--env", "other").stdout
    assert own("app", "stop", "app", "--env", "other").returncode == 0


def test_deploys_that_race_come_one_after_the_other(own: Runner) -> None:
    for number in range(4):
        own.program(f"p{number}.py", PROGRAM.format(name="app", version=str(number), options=""))
    assert own("deploy", "p0.py").returncode == 0
    running = [own.popen("deploy", f"p{number}.py") for number in (1, 2, 3)]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    history = own("app", "history", "app", "--json").stdout
    assert [line for line in history.splitlines() if '"version"' in line] == [f'    "version": {number},' for number in (4, 3, 2, 1)]
    assert Function.from_name("app", "version").remote() in ("1", "2", "3")
    # A rename waits for deployments under the name, and goes with what they made.
    running = [own.popen("deploy", "p1.py"), own.popen("app", "rename", "app", "renamed")]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert Function.from_name("renamed", "version").remote() in ("1", "2", "3")


def test_deploying_from_python(own: Runner) -> None:
    import squall

    app = squall.App("inline")

    @app.function(serialized=True)
    def double(i: int) -> int:
        return 2 * i

    app.deploy()
    assert double.remote(21) == 42
    assert Function.from_name("inline", "double").remote(4) == 8
    looked_up = squall.App.lookup("inline")
    assert looked_up.app_id is not None
    assert looked_up.app_id.startswith("ap-")
    empty = squall.App.lookup("empty", create_if_missing=True)
    assert empty.app_id
    empty.stop()
    with pytest.raises(NotFoundError, match="'empty'"):
        squall.App.lookup("empty")
    with pytest.raises(NotFoundError, match="squall deploy"):
        squall.App.lookup("nothing")
    # Where and as what it is deployed has to be there, and a name.
    with pytest.raises(NotFoundError, match="nowhere"):
        app.deploy(environment_name="nowhere")
    with pytest.raises(InvalidError, match="'bad name!' is no name for an app"):
        app.deploy(name="bad name!")
    assert own("app", "rename", "inline", "").returncode == 1
    nameless = squall.App()
    with pytest.raises(InvalidError, match="needs a name"):
        nameless.deploy()
    with pytest.raises(squall.exception.ExecutionError, match="does not run"):
        nameless.stop()

    broken = squall.App("inline")

    @broken.function(serialized=True, name="double")
    def other(i: int) -> int:
        return 3 * i

    broken.deploy(strategy="recreate")
    assert Function.from_name("inline", "double").remote(4) == 12
    with pytest.raises(InvalidError, match="strategy"):
        broken.deploy(strategy="blue-green")


DEPLOYER = """
import os

import msgspec

import squall
from squall.model.options import FunctionOptions
from squall.wire.messages import DeriveFunction

app = squall.App("deployer")


def make(name, secret=None, environment=None):
    made = squall.App(name)

    @made.function(serialized=True, secrets=[secret or squall.Secret.from_dict({"MINE": "abc"})])
    def double(i: int) -> tuple[int, str]:
        return 2 * i, os.environ["MINE"]

    made.deploy(environment_name=environment)
    return double.remote(4)


@app.function(may_deploy=True)
def granted(name: str, secret: str, environment: str | None, of: str | None):
    return make(name, squall.Secret.from_name(secret, environment_name=of) if secret else None, environment)


@app.function()
def refused(name: str):
    return make(name)


@app.function()
def looking():
    return squall.App.lookup("nothing", create_if_missing=True).app_id


@app.function(serialized=True)
def seen() -> str:
    return os.environ["MINE"]


@app.function()
def variant(function: str, reference: str):
    options = msgspec.msgpack.encode(FunctionOptions(secrets=(reference,)))
    return squall.Client.default().request(DeriveFunction(function, options)).names[0]
"""


def test_deploying_from_a_container(own: Runner) -> None:
    assert own("environment", "create", "elsewhere").returncode == 0
    assert own("secret", "create", "mine", "MINE=kept").returncode == 0
    assert own("secret", "create", "mine", "MINE=hidden", "--env", "elsewhere").returncode == 0
    done = deploy(own, "", text=DEPLOYER)
    assert "granted  new, may deploy apps" in done.stderr, done.stderr
    granted, refused = Function.from_name("deployer", "granted"), Function.from_name("deployer", "refused")
    assert granted.remote("made", "", None, None) == (8, "abc")
    assert Function.from_name("made", "double").remote(5) == (10, "abc")
    assert granted.remote("made", "mine", None, None) == (8, "kept")
    for environment, of in (("elsewhere", None), (None, "elsewhere")):
        with pytest.raises(PermissionDeniedError, match="its own environment, 'main', and not into 'elsewhere'"):
            granted.remote("stolen", "mine", environment, of)
    for call in (lambda: refused.remote("stolen"), lambda: Function.from_name("deployer", "looking").remote()):
        with pytest.raises(PermissionDeniedError, match=r"@app.function\(may_deploy=True\)"):
            call()
    # A variant of a function of its own is no way to the secrets of others.
    with pytest.raises(PermissionDeniedError, match="may not deploy or ask for secrets"):
        Function.from_name("deployer", "variant").remote(Function.from_name("deployer", "seen").hydrate().object_id, "main/mine")
    assert "stolen" not in own("app", "list", "--all").stdout
