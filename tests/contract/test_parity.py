"""The table of Modal's names, parameters and defaults is that of the code, and no more of them are missing than `reasons.toml` allows."""

from collections.abc import Callable
from typing import Any

import pytest

import squall
from squall.compat.config import config
from squall.compat.runner import deploy_app, run_app
from squall.exception import UnsupportedError
from support.parity.compare import Reasons, Row, compare
from support.parity.document import DOCUMENT, missing, render, rows

Compared = tuple[list[Row], Reasons]


@pytest.fixture(scope="module")
def compared() -> Compared:
    return rows()


def test_the_table_is_that_of_the_code(compared: Compared) -> None:
    assert render(compared[0]) == DOCUMENT.read_text(), "run scripts/parity and commit what it writes"


def test_no_more_is_missing_than_before(compared: Compared) -> None:
    found, reasons = compared
    assert missing(found) == reasons.most_missing, "lower most_missing in reasons.toml, or say there why more is missing"


def test_every_reason_is_of_something(compared: Compared) -> None:
    assert compared[1].stale == []


APP, SLIM = squall.App("parity"), squall.Image.debian_slim()
VOLUME = squall.Volume.from_name("v")
FILES: Any = squall.NetworkFileSystem
#: By name: gives the value to a parameter that is not built.
REFUSED: dict[str, Callable[..., Any]] = {
    "App": squall.App,
    "App.cls": APP.cls,
    "App.function": APP.function,
    "App.run": APP.run,
    "App.server": APP.server,
    "Cls.from_name": lambda **given: squall.Cls.from_name("a", "C", **given),
    "Environment.objects.create": lambda **given: squall.Environment.objects.create("e", **given),
    "Function.from_name": lambda **given: squall.Function.from_name("a", "f", **given),
    "Image.poetry_install_from_file": lambda **given: SLIM.poetry_install_from_file("pyproject.toml", **given),
    "Image.uv_pip_install": lambda **given: SLIM.uv_pip_install("x", **given),
    "Image.uv_sync": SLIM.uv_sync,
    "NetworkFileSystem.add_local_dir": lambda **given: FILES.from_name("n").add_local_dir(".", **given),
    "NetworkFileSystem.add_local_file": lambda **given: FILES.from_name("n").add_local_file("x", **given),
    "NetworkFileSystem.write_file": lambda **given: FILES.from_name("n").write_file("x", None, **given),
    "Server.autoscaler.update": lambda **given: squall.Server.from_name("a", "S").autoscaler.update(**given),
    "Server.update_autoscaler": lambda **given: squall.Server.from_name("a", "S").update_autoscaler(**given),
    "Volume.ephemeral": squall.Volume.ephemeral,
    "Volume.from_name": lambda **given: squall.Volume.from_name("v", **given),
    "Volume.objects.create": lambda **given: squall.Volume.objects.create("v", **given),
    "Volume.read_file_into_fileobj": lambda **given: VOLUME.read_file_into_fileobj("x", None, **given),  # type: ignore[arg-type]
    "config.Config.to_dict": config.to_dict,
    "runner.deploy_app": lambda **given: deploy_app(APP, **given),
    "runner.run_app": lambda **given: run_app(APP, **given),
}
#: Parameters whose value is another than True.
GIVEN: dict[str, Any] = {"tags": {"team": "x"}, "version": 2, "stream_output": False}


@pytest.mark.filterwarnings("ignore::squall.exception.DeprecationError")
def test_each_parameter_that_is_said_to_be_refused_is(compared: Compared) -> None:
    for row in compared[0]:
        if row.is_parameter and row.verdict == "refuses":
            name, _, parameter = row.name.removesuffix("=)").partition("(")
            with pytest.raises(UnsupportedError, match=f"{parameter}="):
                REFUSED[name](**{parameter: GIVEN.get(parameter, True)})


def function(*parameters: list[str | None], aio: bool = False) -> dict[str, object]:
    return {"kind": "function", "aio": aio, "parameters": [list(parameter) for parameter in parameters]}


A, B = ["a", "POSITIONAL_OR_KEYWORD", None], ["b", "KEYWORD_ONLY", "1"]


@pytest.mark.parametrize(
    ("theirs", "ours", "said"),
    [
        (function(A, B), function(A, B), []),
        (function(A, B), function(A, ["b", "KEYWORD_ONLY", "2"]), ["default 2, not 1"]),
        (function(A, B), function(A), ["no such parameter"]),
        (function(A), function(["x", "POSITIONAL_OR_KEYWORD", None], A), ["not at that place"]),
        (function(A), function(["a", "KEYWORD_ONLY", None]), ["not at that place"]),
        (function(B), function(["b", "POSITIONAL_ONLY", "1"]), ["can't be given by its name"]),
        (function(A, aio=True), function(A), ["no .aio"]),
        ({"kind": "value", "value": "1"}, {"kind": "value", "value": "2"}, ["is 2, not 1"]),
        (function(A), {"kind": "property"}, ["is a property, not a function"]),
        (function(A), {"kind": "refuses"}, ["refused, without a group in reasons.toml"]),
        (function(A), None, [""]),
    ],
)
def test_what_counts_as_a_difference(theirs: dict[str, object], ours: dict[str, object] | None, said: list[str]) -> None:
    reasons = Reasons({"different": {}, "refuses": {}, "never": {}}, {})
    found = compare({"f": theirs}, {} if ours is None else {"f": ours}, reasons)
    assert [row.why for row in found if row.verdict == "missing"] == said


def test_the_longest_pattern_gives_the_reason() -> None:
    reasons = Reasons({"different": {"f(*=)": "short"}, "refuses": {"f(b=)": "b itself"}, "never": {"g": "unused"}}, {})
    assert reasons.of("f(b=)", "different", "refuses") == ("refuses", "b itself")
    assert reasons.of("f(a=)", "different", "refuses") == ("different", "short")
    assert reasons.stale == ["g"]
