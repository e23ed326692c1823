"""Local files on their way to containers: found, named by content, sent once, in real processes where it matters how a program was started."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from squall.exception import InvalidError, ModuleNotMountable, SerializationError
from squall.sdk.function.serialize import pickle_function
from squall.sdk.source.digests import Digests
from squall.sdk.source.patterns import FilePatternMatcher
from squall.sdk.source.sources import Shipment, module_files
from squall.wire.messages import Answer, Command, Done, MissingBlobs, Names, PutBlobs

DESCRIBE = """
import json
from squall.sdk.app.run import app_spec
from squall.sdk.source.sources import Shipment
def describe(app):
    spec = app_spec(app, Shipment())
    print(json.dumps([[f.tag, f.module, f.qualname, f.pickled is not None, sorted(s.path for s in f.source)] for f in spec.functions]))
"""
PROGRAM = """
import squall
app = squall.App()
@app.function()
def f(x): return x
if __name__ == "__main__":
    from describe import describe
    describe(app)
"""


class Server:
    """Holds blobs as the real one does; counts what it was sent."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def request(self, command: Command) -> Answer:
        if isinstance(command, MissingBlobs):
            return Names(tuple(digest for digest in command.digests if digest not in self.blobs))
        assert isinstance(command, PutBlobs)
        assert all(hashlib.sha256(data).hexdigest() == digest for digest, data in command.blobs.items())
        self.blobs |= command.blobs
        return Done()


def tree(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def described(cwd: Path, *argv: str) -> list[list[object]]:
    env = {**os.environ, "PYTHONPATH": str(cwd)}
    (cwd / "describe.py").write_text(DESCRIBE)
    done = subprocess.run([sys.executable, *argv], cwd=cwd, env=env, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def test_directory_order_ignore_and_hidden(tmp_path: Path) -> None:
    tree(tmp_path, "b.txt", "a.txt", "sub/c.log", "sub/d.txt", ".hidden/e.txt", "__pycache__/f.pyc")
    shipment = Shipment()
    found = [file.path for file in shipment.directory(tmp_path, "/data/", FilePatternMatcher("**/*.log"))]
    assert found == ["/data/a.txt", "/data/b.txt", "/data/.hidden/e.txt", "/data/sub/d.txt"]
    visible = [file.path for file in shipment.directory(tmp_path, "/data", lambda path: False, skip_hidden=True)]
    assert "/data/.hidden/e.txt" not in visible
    assert shipment.places["/data/a.txt"] == tmp_path / "a.txt"


def test_exceptions_below_an_ignored_directory(tmp_path: Path) -> None:
    tree(tmp_path, "build/keep.txt", "build/drop.txt")
    found = [file.path for file in Shipment().directory(tmp_path, "/d", FilePatternMatcher("build", "!build/keep.txt"))]
    assert found == ["/d/build/keep.txt"]


def test_links_and_special_files(tmp_path: Path) -> None:
    tree(tmp_path, "real/a.txt")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "broken").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "real" / "pipe")
    assert [file.path for file in Shipment().directory(tmp_path / "real", "/d", lambda path: False)] == ["/d/a.txt"]


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="nothing"):
        list(Shipment().directory(tmp_path / "nothing", "/d", lambda path: False))
    with pytest.raises(InvalidError, match="nothing"):
        Shipment().file(tmp_path / "nothing", "/d")


def test_upload_sends_what_is_missing_once(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.txt")
    (tmp_path / "copy.txt").write_text("a.txt")
    server = Server()
    for expected in (2, 2):
        shipment = Shipment()
        list(shipment.directory(tmp_path, "/d", lambda path: False))
        shipment.upload(server)
        assert len(server.blobs) == expected


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt")
    shipment = Shipment()
    shipment.file(tmp_path / "a.txt", "/a.txt")
    (tmp_path / "a.txt").write_text("different")
    with pytest.raises(InvalidError, match="changed while it was being shipped"):
        shipment.upload(Server())


def test_digests_are_remembered_and_not_trusted_when_fresh(tmp_path: Path) -> None:
    big, memory = tmp_path / "big", tmp_path / "memory"
    big.write_bytes(b"a" * (2 << 20))
    os.utime(big, (1_000_000_000, 1_000_000_000))
    first = Digests(memory)
    right = first.digest(big)[0]
    first.save()
    # Change the content behind the back of size and time: only the memory can give the old answer.
    with big.open("r+b") as file:
        file.write(b"b")
    os.utime(big, (1_000_000_000, 1_000_000_000))
    assert Digests(memory).digest(big)[0] == right
    os.utime(big, (1_000_000_001, 1_000_000_001))
    assert Digests(memory).digest(big)[0] == hashlib.sha256(big.read_bytes()).hexdigest() != right
    fresh = tmp_path / "fresh"
    fresh.write_bytes(b"c" * (2 << 20))
    third = Digests(memory)
    third.digest(fresh)
    third.save()
    assert str(fresh) not in (third._memory or {}), "modified a moment ago"
    memory.write_bytes(b"\xc1 not msgpack")
    assert Digests(memory).digest(big)[0] == hashlib.sha256(big.read_bytes()).hexdigest()


def test_a_tree_of_many_files_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    tree(data, *(f"{number % 5}/{number}" for number in range(600)))
    for path in data.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    server = Server()

    def ship() -> dict[str, str]:
        shipment = Shipment()
        found = {file.path: file.digest for file in shipment.directory(data, "/d", lambda path: False)}
        shipment.upload(server)
        return found

    first = ship()
    assert (len(first), len(server.blobs)) == (600, 600)
    # Behind the back of size and time: only what was remembered can say the old digest.
    (data / "1/1").write_text("9/9")
    os.utime(data / "1/1", (1_000_000_000, 1_000_000_000))
    (data / "2/2").write_text("seen")
    again = ship()
    assert {path for path in first if first[path] != again[path]} == {"/d/2/2"}
    assert server.blobs[again["/d/2/2"]] == b"seen"
    # A server that lost the content finds out, and the next try ships what is there.
    server.blobs.clear()
    with pytest.raises(InvalidError, match="changed while it was being shipped; run it again"):
        ship()
    assert server.blobs[ship()["/d/1/1"]] == b"9/9"
    (data / "2/2").unlink()
    assert ship().keys() == first.keys() - {"/d/2/2"}


def test_plain_python_file(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    assert described(tmp_path, "program.py") == [["f", "program", "f", False, ["/root/program.py"]]]


def test_module_of_a_package(tmp_path: Path) -> None:
    tree(tmp_path, "pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/other.py", "pkg/data.txt", "pkg/.hidden/x.py")
    for path in tmp_path.rglob("*.py"):
        path.write_text("")
    (tmp_path / "pkg" / "sub" / "program.py").write_text(PROGRAM)
    expected = ["/root/pkg/__init__.py", "/root/pkg/sub/__init__.py", "/root/pkg/sub/other.py", "/root/pkg/sub/program.py"]
    assert described(tmp_path, "-m", "pkg.sub.program") == [["f", "pkg.sub.program", "f", False, expected]]
    imported = "from describe import describe; import pkg.sub.program as p; describe(p.app)"
    assert described(tmp_path, "-c", imported) == [["f", "pkg.sub.program", "f", False, expected]]


def test_no_file_means_serialized(tmp_path: Path) -> None:
    program = "import squall; from describe import describe; app = squall.App(); f = app.function(name='f')(lambda: 1); describe(app)"
    ((tag, _, _, serialized, source),) = described(tmp_path, "-c", program)
    assert (tag, serialized, source) == ("f", True, [])


def test_include_source_false(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.replace("squall.App()", "squall.App(include_source=False)"))
    assert described(tmp_path, "program.py")[0][4] == []


def test_include_source_of_a_function_overrides_the_apps(tmp_path: Path) -> None:
    second = "@app.function(include_source=not app._include_source)\ndef g(x): return x\nif __name__"
    for of_app, shipped in (("True", ["f"]), ("False", ["g"])):
        program = PROGRAM.replace("squall.App()", f"squall.App(include_source={of_app})").replace("if __name__", second)
        (tmp_path / "program.py").write_text(program)
        assert [entry[0] for entry in described(tmp_path, "program.py") if entry[4]] == shipped


def test_builtin_modules_have_no_source() -> None:
    with pytest.raises(ModuleNotMountable, match="serialized=True"):
        module_files("sys", Shipment())


def test_serialized_functions_travel_by_value() -> None:
    base = 40

    def add(x: int) -> int:
        return x + base

    data = pickle_function(add, "add", __name__)
    program = f"import pickle; print(pickle.loads({data!r})(2))"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd="/").stdout == "42\n"


def test_large_serialized_functions() -> None:
    some, much = os.urandom(300 << 10), os.urandom(17 << 20)
    with pytest.warns(UserWarning, match="'warns' has 3"):
        pickle_function(lambda: some, "warns", __name__)
    with pytest.raises(SerializationError, match="'fails' has 17.0 MiB"):
        pickle_function(lambda: much, "fails", __name__)


def test_what_can_not_be_pickled_is_named(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w") as file, pytest.raises(SerializationError, match="'holds'"):
        pickle_function(lambda: file, "holds", __name__)


def test_a_program_without_a_top_level_name(tmp_path: Path) -> None:
    """A zip or directory that is run has the module name `__main__` even in the container's view: its functions go by value."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "__main__.py").write_text(textwrap.dedent(PROGRAM))
    assert described(tmp_path, "dir")[0][3] is True
