"""The table of Modal's names, parameters and defaults is that of the code, and no more of them are missing than `reasons.toml` allows."""

import pytest

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
