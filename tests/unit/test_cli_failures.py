"""What the user sees of errors: tracebacks with remote frames, paragraphs of the platform."""

from pathlib import Path

import pytest

import squall
from squall.cli.ui.errors import hint, is_users, paragraph, users_traceback
from squall.exception import ImageBuildError, ModuleNotMountable, OutOfMemoryError
from squall.sdk.function import results
from squall.sdk.source.sources import Shipment
from squall.wire.messages import Frame

CONTAINER = "ct-019353aabbcc7deeff00112233445566"


def remote_error() -> BaseException:
    error: BaseException = ValueError("math domain error")
    error.__dict__["__squall_container__"] = CONTAINER
    error.__dict__["__squall_traceback__"] = (
        'Traceback (most recent call last):\n  File "/root/hello.py", line 8, in f\n    return math.sqrt(i)\n'
        '  File "/usr/lib/python3.11/mathematics.py", line 3, in sqrt\n    raise ValueError\nValueError: math domain error\n'
    )
    frames = (
        Frame("/.squall/lib/squall/runner/main.py", 100, "run"),
        Frame("/root/hello.py", 8, "f"),
        Frame("/usr/lib/python3.11/mathematics.py", 3, "sqrt"),
    )
    return error.with_traceback(results._rebuild_traceback(frames))


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_remote_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = users_traceback(raised(remote_error()), {"/root/hello.py": tmp_path / "hello.py"}).splitlines()
    assert shown[0] == "Traceback (most recent call last):"
    assert "in raised" in shown[1]
    at = next(index for index, line in enumerate(shown) if '"hello.py", line 8, in f' in line)
    assert shown[at].endswith(f"(in container {CONTAINER[:21]})")
    assert shown[at + 1].strip() == "return math.sqrt(i)"
    assert '"/usr/lib/python3.11/mathematics.py", line 3, in sqrt' in shown[at + 2]
    assert shown[at + 3].strip() == "raise ValueError"
    assert shown[-1] == "ValueError: math domain error"
    assert not any("runner" in line for line in shown)


def test_source_of_shipped_files_when_the_text_has_none(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("\n" * 7 + "    return something()\n")
    error = remote_error()
    error.__dict__["__squall_traceback__"] = ""
    assert "return something()" in users_traceback(error, {"/root/hello.py": tmp_path / "hello.py"})


def test_full_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUALL_TRACEBACK", "full")
    assert "/.squall/lib/squall/runner/main.py" in users_traceback(remote_error(), {})


def test_causes_and_groups_are_cleaned_too() -> None:
    try:
        try:
            raise remote_error()
        except ValueError as error:
            raise KeyError("outer") from error
    except KeyError as error:
        shown = users_traceback(error, {})
    assert shown.count("(in container") == 2
    assert "runner" not in shown
    group = users_traceback(raised(ExceptionGroup("several", [remote_error()])), {})
    assert "(in container" in group
    assert "runner" not in group


def test_a_defect_of_squall_keeps_its_frames() -> None:
    from squall.sdk.output.line_streams import LineStreams

    error = raised(ValueError())
    try:
        LineStreams().write("a", 3, b"")
    except KeyError as caught:
        trace = caught.__traceback__
        assert trace is not None
        error = KeyError("inside").with_traceback(trace.tb_next)
    assert "streams.py" in users_traceback(error, {})


def test_paragraphs() -> None:
    oom = raised(OutOfMemoryError("f ran out of memory: 512 MiB allowed"))
    assert paragraph(oom, {}).splitlines()[0] == "f ran out of memory: 512 MiB allowed"
    assert "test_cli_failures.py" in paragraph(oom, {}).splitlines()[1]
    build = ImageBuildError("no version of nampy", step="pip_install nampy", step_index=3, steps=3, log_tail="a\nb")
    assert paragraph(build, {}) == "no version of nampy\n  step 3 of 3: pip_install nampy"
    assert paragraph(build, {}, log=True).endswith("    a\n    b")


def test_a_module_that_is_not_here_is_told_in_a_paragraph() -> None:
    image = squall.Image.debian_slim().add_local_python_source("no_such_module")
    with pytest.raises(ModuleNotMountable) as caught:
        image._attached_files(Shipment())
    assert not is_users(caught.value)
    assert paragraph(caught.value, {}).startswith("'no_such_module' can't be found here; add_local_python_source takes")


def test_hints_where_here_and_the_container_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.csv").touch()
    missing = raised(FileNotFoundError(2, "No such file or directory", "data.csv"))
    assert hint(missing) == ""  # here it would be there
    missing.__dict__["__squall_container__"] = CONTAINER
    assert 'image.add_local_file("data.csv", "/root/data.csv")' in hint(missing)
    nowhere = raised(FileNotFoundError(2, "No such file or directory", "other.csv"))
    nowhere.__dict__["__squall_container__"] = CONTAINER
    assert hint(nowhere) == ""
    unknown = raised(ModuleNotFoundError("No module named 'polars.io'", name="polars.io"))
    assert "image.imports()" in hint(unknown) and "pip install polars" in hint(unknown)
    with pytest.raises(TypeError) as bare:
        squall.App("bare").function(print)  # type: ignore[misc, call-arg]
    assert users_traceback(bare.value, {}).endswith("The decorator needs its parentheses:  @app.function()")
    unknown.__dict__["__squall_container__"] = CONTAINER
    assert hint(unknown) == "" and hint(ValueError("x")) == ""
