"""Handlers of `atexit` run when a container with exit hooks ends, after them."""

import pytest

from .conftest import Runner

pytestmark = pytest.mark.root

PROGRAM = """
import atexit, squall

app = squall.App("leaving")
atexit.register(print, "bye of the module")

class Base:
    @squall.exit()
    def leave(self):
        print("leave")

    @squall.method()
    def use(self):
        atexit.register(print, f"bye of {type(self).__name__}")

        @atexit.register
        def wrong():
            raise ValueError("in a handler")

@app.cls()
class Copied(Base): ...

@app.cls(fork=False)
class Alone(Base): ...

@app.cls()
@squall.concurrent(max_inputs=2)
class Together(Base): ...

@app.local_entrypoint()
def main():
    for kind in (Copied, Alone, Together):
        kind().use.remote()
"""


def test_handlers_run_when_a_container_ends(squall: Runner) -> None:
    (squall.folder / "leaving.py").write_text(PROGRAM)
    done = squall("run", "leaving.py")
    assert done.returncode == 0, done.stderr
    for word in ("Copied", "Alone", "Together"):
        assert f"bye of {word}\n" in done.stdout
    assert done.stdout.count("bye of the module") == 4  # of the caller and of each container
    assert done.stdout.index("leave\n") < done.stdout.index("bye of ")
    assert "ValueError: in a handler" in done.stderr
