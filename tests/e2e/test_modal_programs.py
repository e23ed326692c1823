"""Programs written for the client that Squall is compatible with, run as they are; and what `squall run` says around them."""

import json
import re
import signal
from typing import Any

import pytest

pytestmark = pytest.mark.root

Squall = Any  # the fixture's runner, of tests/e2e/conftest.py

MODERN = """
import sys
import modal
from modal.exception import InvalidError

app = modal.App("written-for-modal", image=modal.Image.debian_slim())

@app.function()
def f(i):
    import modal.exception
    assert modal.exception.Error
    print("hello" if i % 2 == 0 else "world", i, file=sys.stdout if i % 2 == 0 else sys.stderr)
    return i * i

@app.cls(max_containers=2)
@modal.concurrent(max_inputs=2)
class Greeter:
    greeting: str = modal.parameter(default="hello")

    @modal.enter()
    def load(self):
        self.loaded = True

    @modal.method()
    def greet(self, name: str, times: int = 1):
        return f"{self.greeting} {name} {self.loaded}" * times

    @modal.exit()
    def unload(self):
        print("unloaded")

@app.local_entrypoint()
def main():
    assert modal.is_local()
    print(f.local(4), f.remote(4), sum(f.map(range(20))))
    print(Greeter(greeting="hi").greet.remote("you"))
    try:
        f(1)
    except InvalidError as error:
        print(type(error).__module__)
"""

SEARCHING = """
import os, subprocess, sys
import modal

image = modal.Image.debian_slim().run_commands("mkdir /opt/extra", "echo V=7 > /opt/extra/extra_module.py").env({"PYTHONPATH": "/opt/extra"}).workdir("/work")
app = modal.App("searching", image=image)

@app.function()
def f():
    import extra_module
    return f"{os.getcwd()} {extra_module.V}"

@app.function()
def started():
    code = "import extra_module, importlib.util as u; assert u.find_spec('searching'); print(extra_module.V)"
    return subprocess.check_output([sys.executable, "-c", code], text=True)

@app.local_entrypoint()
def main():
    print(f.remote())
    print(started.remote(), end="")
"""

OLD = """
import modal
import modal.functions, modal.gpu
from modal import Secret, method

stub = modal.Stub("old")
stub.image = modal.Image.debian_slim()
with stub.image.imports():
    import json

@stub.function(concurrency_limit=2, container_idle_timeout=20, keep_warm=0, allow_concurrent_inputs=3)
def f(x):
    return json.dumps(x)

@stub.local_entrypoint()
def main():
    print(modal.functions.gather(f.spawn(1), f.spawn(2)))
    print(modal.gpu.A100(count=2))
"""

HYDRATED = """
import subprocess, threading, urllib.error, urllib.request
import modal

app = modal.App("hydrated")
other = modal.App("another")

def bake(where):
    import modal.exception
    with open(where, "w") as file:
        file.write(modal.__name__)

image = modal.Image.debian_slim().run_function(bake, args=("/baked",))
volume = modal.Volume.from_name("hydrated", create_if_missing=True)

def mixed():
    return [modal.is_local(), helper(), Held.word]

def helper():
    return "helped"

class Held:
    word = "held"
    @modal.method()
    def say(self):
        return [helper(), Held.word, type(self).__name__]

mixed_there = app.function(serialized=True)(mixed)
HeldThere = app.cls(serialized=True)(Held)

@app.function(image=image, volumes={"/v": volume})
@modal.concurrent(max_inputs=3)
def look():
    assert modal.App._get_container_app() is app and modal.experimental.get_local_input_concurrency() == 3
    assert image.is_hydrated and volume.is_hydrated and look.is_hydrated and not elsewhere.is_hydrated
    return open("/baked").read(), threading.current_thread() is not threading.main_thread()

@app.function()
def listing():
    import os
    return os.environ["A"], os.listdir("/w"), os.environ["MODAL_ENVIRONMENT"]

wide = listing.with_options(volumes={"/w": volume}, secrets=[modal.Secret.from_dict({"A": "b"})])

kept = modal.Volume.from_name("kept-for-others", create_if_missing=True)
top = listing.with_options(volumes={"/w": modal.Volume.from_name("top", create_if_missing=True)}, secrets=[modal.Secret.from_name("top")])
missing = listing.with_options(volumes={"/w": modal.Volume.from_name("never-made")})

@app.function()
def stages():
    result = top.remote(), wide.remote()
    for stolen in (dict(volumes={"/w": kept}), dict(secrets=[modal.Secret.from_name("kept-for-others")])):
        try:
            listing.with_options(**stolen).remote()
        except modal.exception.PermissionDeniedError:
            continue
        raise AssertionError(f"a container reached {stolen}")
    call = look.spawn()
    call.get()
    (root,) = call.get_call_graph()  # also here, and when it has ended
    assert root.status.name == "SUCCESS"
    try:
        modal.Volume.from_name("top").listdir("/")
    except modal.exception.PermissionDeniedError:
        return result

@app.local_entrypoint()
def staged():
    kept.hydrate()
    print(stages.remote())

@other.function()
def elsewhere(): ...

@app.cls()
class Half:
    @modal.method()
    def works(self, x: int = 2):
        return x * x
    @modal.asgi_app()
    def broken(self):
        return None
    @modal.fastapi_endpoint()
    def never_used(self):
        pass

@app.local_entrypoint()
def main():
    assert modal.App._get_container_app() is None and not image.is_hydrated
    listing.map([1])
    print(look.remote(), mixed_there.remote(), HeldThere().say.remote(), Half().works.remote(), wide.remote())
    try:
        urllib.request.urlopen(Half().broken.get_web_url(), timeout=20)
    except urllib.error.HTTPError as error:
        print(error.code)

@app.local_entrypoint()
def words(*given):
    command = subprocess.run(["modal", "--version"], capture_output=True, text=True).stdout.split()[0]
    return " ".join([command, *given])

@app.local_entrypoint()
def twice():
    with app.run():
        pass
"""

LINES = """
import squall
app = squall.App("lines")

@app.function()
def f(i):
    print("container", i)
    return i

@app.local_entrypoint()
def main():
    print("a", end="")
    f.remote(1)
    print("b", end="")
    f.remote(2)
    print("c")
    for i in f.map(range(200)):
        print("mine", i, "mine")
"""

LEAVES = """
import os, time, squall
app = squall.App("leaves")

@app.function(max_containers=1)
@squall.concurrent(max_inputs=2)
def pair(i: int):
    if i == 0:
        squall.experimental.stop_fetching_inputs()
    return os.environ["SQUALL_CONTAINER_ID"]

@app.function(max_containers=1)
def once(i: int):
    if i % 2 == 0:
        squall.experimental.stop_fetching_inputs()
    return os.environ["SQUALL_CONTAINER_ID"]

@app.local_entrypoint()
def leaving():
    seen = [once.remote(i) for i in range(4)]
    one, two, three, four = [seen.index(container) for container in seen]
    both = [pair.remote(i) for i in (1, 0, 1)]
    print(one, two, three, four, both[0] == both[1] != both[2])
    mapped = list(once.map(range(6)))  # here inputs lie in a container that wants no more
    print(len(mapped))

@app.cls(scaledown_window=2)
class C:
    mark: str = squall.parameter()
    @squall.method()
    def work(self, seconds: float = 0.0):
        print("working", flush=True)
        time.sleep(seconds)
        return self.mark
    @squall.exit()
    async def bye(self):
        print("bye", self.mark, flush=True)

@app.local_entrypoint()
def idles():
    C(mark="idle").work.remote()
    deadline = time.monotonic() + 30
    while C(mark="idle").work.get_current_stats().num_total_runners:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    print("idled out")
"""


def test_a_program_of_today(squall: Squall) -> None:
    done = squall("run", squall.program("modern.py", MODERN))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("hello ")] == ["16 16 2470", "hi you True", "squall.exception", "unloaded"]
    assert sum(line.startswith("hello ") for line in lines) == 1 + 1 + 10
    assert sum(line.startswith("world ") for line in done.stderr.splitlines()) == 10
    assert re.match(r"✓ done in .* s  22 calls, \d+ containers", done.stderr.splitlines()[-1])


def test_a_method_is_a_target(squall: Squall) -> None:
    program = squall.program("modern.py", MODERN)
    done = squall("run", "-q", f"{program}::Greeter.greet", "--greeting", "moin", "--name", "x", "--times", "2")
    assert (done.returncode, done.stdout) == (0, "moin x Truemoin x True\nunloaded\n")
    assert squall("run", "-q", f"{program}::app.Greeter", "--name", "x").stdout.startswith("hello x True\n")
    assert "--greeting TEXT" in squall("run", f"{program}::Greeter.greet", "--help").stdout


def test_an_old_program_works_and_says_what_is_old(squall: Squall) -> None:
    done = squall("run", "-q", squall.program("old.py", OLD))
    assert (done.returncode, done.stdout) == (0, "['1', '2']\nA100:2\n"), done.stderr
    for old, new in (
        ("modal.Stub", "modal.App"),
        ("app.image", "App(image=...)"),
        ("concurrency_limit=", "max_containers="),
        ("container_idle_timeout=", "scaledown_window="),
        ("keep_warm=", "min_containers="),
        ("allow_concurrent_inputs=", "@squall.concurrent"),
        ("modal.functions.gather", "FunctionCall.gather"),
        ("gpu.A100(...)", 'gpu="A100:2"'),
    ):
        said = [line for line in done.stderr.splitlines() if "DeprecationError" in line and old in line and new in line]
        assert len(said) == 1, (old, said)


def test_what_containers_know_of_their_app_and_what_travels_by_value(squall: Squall) -> None:
    program = squall.program("hydrated.py", HYDRATED)
    done = squall("run", "-q", f"{program}::main")
    assert (done.returncode, done.stdout) == (0, "('modal', True) [False, 'helped', 'held'] ['helped', 'held', 'Held'] 4 ('b', [], 'main')\n500\n"), done.stderr
    assert "the results of listing.map(...) were never consumed" in done.stderr
    assert "which is no app" in done.stderr  # of a web method: its requests fail, the other methods work
    assert "needs FastAPI" not in done.stderr  # nobody used that one
    for secret in ("top", "kept-for-others"):
        assert squall("secret", "create", secret, "A=named").returncode == 0
    done = squall("run", "-q", f"{program}::staged")
    assert (done.returncode, done.stdout) == (0, "(('named', [], 'main'), ('b', [], 'main'))\n"), done.stderr
    done = squall("run", "-q", "--name", "shown", "-w", "result.txt", f"{program}::words", "a", "--b", "c=d")
    assert (done.returncode, (squall.folder / "result.txt").read_text()) == (0, "squall a --b c=d"), done.stderr
    done = squall("run", "-q", "-::Half", stdin=HYDRATED)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
    done = squall("run", "-q", f"{program}::twice")
    assert done.returncode == 1
    assert "App is already running" in done.stderr
    done = squall("run", "-q", "--write-result=none.txt", f"{program}::Half")
    assert done.returncode == 1
    assert "must return str or bytes" in done.stderr


def test_squall_is_meant_even_where_a_real_one_is_installed(squall: Squall) -> None:
    (squall.folder / "modal").mkdir()
    (squall.folder / "modal" / "__init__.py").write_text("raise RuntimeError('the real one')")
    program = squall.program("modern.py", MODERN)
    assert squall("run", "-q", program).returncode == 0
    done = squall("run", "-q", "--no-modal-alias", program)
    assert done.returncode == 1
    assert "RuntimeError: the real one" in done.stderr


def test_without_the_alias_containers_do_not_have_it_either(squall: Squall) -> None:
    text = "import squall\napp = squall.App()\n@app.function()\ndef f():\n    import modal\n"
    program = squall.program("plain.py", text)
    assert squall("run", "-q", program).returncode == 0
    done = squall("run", "-q", "--no-modal-alias", program)
    assert done.stderr.count("No module named 'modal'") == 1 and "direct cause" not in done.stderr


def test_exits_warnings_and_deploy_as_a_program_of_modal_has_them(squall: Squall) -> None:
    text = (
        "import datetime, modal\nfrom modal.exception import deprecation_warning\napp = modal.App(image=modal.Image.debian_slim())\n"
        "@app.function(region='eu')\ndef f():\n    print(app.is_inside())\n    deprecation_warning(datetime.date(2024, 1, 2), 'old')\n    raise SystemExit(7)\n"
    )
    done = squall("run", squall.program("leaving.py", text))
    assert done.returncode == 7 and done.stdout == "True\n" and "SystemExit: 7" in done.stderr, done.stderr
    assert done.stderr.count("region='eu' has no effect") == 1 and "@app.function(region='eu')" in done.stderr
    text = "import modal\napp = modal.App()\n@app.function(retries=modal.Retries(max_retries=1, initial_delay=0.0))\ndef f():\n    raise ValueError('unseen')\n"
    text += "@app.local_entrypoint()\ndef main():\n    call = f.spawn()\n"
    text += "    try:\n        call.get()\n    except ValueError:\n        print('seen')\n"
    done = squall("run", squall.program("spawning.py", text))
    assert done.stdout == "seen\n" and done.stderr.count("ValueError: unseen") == 2 and "line 5, in f" in done.stderr  # both attempts
    failed = next(row for row in json.loads(squall("call", "list", "--json").stdout) if row["error"] == "ValueError: unseen")
    shown = squall("call", "show", failed["call"]).stdout
    assert "  ValueError: unseen\n" in shown
    assert " ago: its code raised an exception: queued\n" in shown
    assert " again (attempt " in shown
    program = squall.program("deployed.py", 'import modal\napp = modal.App("deployed-for-modal")\n@app.function()\ndef f():\n    return 1\n')
    done = squall("deploy", "-q", program)
    assert done.returncode == 0, done.stderr
    assert squall("app", "stop", "deployed-for-modal").returncode == 0


def test_sources_are_found_in_any_working_directory_and_beside_a_search_path(squall: Squall) -> None:
    done = squall("run", "-q", squall.program("searching.py", SEARCHING))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["/work 7", "7"]


def test_a_containers_line_is_never_in_the_middle_of_the_programs(squall: Squall) -> None:
    done = squall("run", "-q", squall.program("lines.py", LINES))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "abc"
    assert sorted(lines) == sorted(["abc", "container 1", "container 2", *(f"container {i}" for i in range(200)), *(f"mine {i} mine" for i in range(200))])


def test_exit_hooks_run_when_a_container_idles_out_and_when_the_app_ends(squall: Squall) -> None:
    program = squall.program("leaves.py", LEAVES)
    done = squall("run", "-q", f"{program}::idles", timeout_s=60)
    # What a container prints and what the program learns come on two connections: only within one is there an order.
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, ["bye idle", "idled out", "working"]), done.stderr
    done = squall("run", "-q", f"{program}::leaving", timeout_s=60)
    assert (done.returncode, done.stdout) == (0, "0 1 1 3 True\n6\n"), done.stderr
    done = squall("run", "-q", f"{program}::C.work", "--mark", "m")
    said = done.stdout.splitlines()
    assert (done.returncode, sorted(said)) == (0, ["bye m", "m", "working"])
    assert said.index("working") < said.index("bye m")


def test_exit_hooks_run_after_ctrl_c(squall: Squall) -> None:
    with squall.popen("run", "-q", f"{squall.program('leaves.py', LEAVES)}::C.work", "--mark", "m", "--seconds", "600") as running:
        assert running.stdout.readline() == "working\n"
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, "bye m\n")
