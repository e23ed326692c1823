"""Variables of Dockerfiles, in every form that the reference has (docs.docker.com/reference/dockerfile, "Environment replacement")."""

import pytest

from squall.model.errors import InvalidError
from squall.sdk.image.dockerfile import assignments, context_sources, parse, substitute

VALUES = {"v": "1.2.3", "p": "/a/b/b.txt", "empty": ""}


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("$v ${v} \\$v ${none}", "1.2.3 1.2.3 $v "),
        ("${none:-x} ${empty:-x} ${empty-x} ${none-${v}}", "x x  1.2.3"),
        ("${v:+x} ${empty:+x} ${empty+x} ${none+x}", "x  x "),
        ("${v#*.} ${v##*.} ${v%.*} ${v%%.*}", "2.3 3 1.2 1"),
        ("${p##*/} ${p%/*} ${p%.md} ${v#?} ${v#.}", "b.txt /a/b /a/b/b.txt .2.3 1.2.3"),
        ("${v/./-} ${v//./-} ${p//b/} ${v/*/x} ${v/none/x}", "1-2.3 1-2-3 /a//.txt x 1.2.3"),
        ("${v:?needed} ${v?}", "1.2.3 1.2.3"),
    ],
)
def test_variables(text: str, result: str) -> None:
    assert substitute(text, VALUES) == result


def test_a_variable_that_must_have_a_value() -> None:
    for text, says in (("${none:?say why}", "none: say why"), ("${empty:?}", "empty: it has no value"), ("${none?}", "none: it has no value")):
        with pytest.raises(InvalidError, match=says):
            substitute(text, VALUES)
    assert substitute("${empty?}", VALUES) == ""


def test_quotes_and_escapes() -> None:
    (line,) = parse(r"""ENV A=a\ b B="two \"words\" \$x" C='$x \' D=x"y z"w E="C:\dir" F=""")
    assert dict(assignments(line)) == {"A": "a b", "B": 'two "words" \\$x', "C": "\\$x \\", "D": "xy zw", "E": "C:\\dir", "F": ""}


def test_files_that_a_build_takes() -> None:
    text = "FROM x\nCOPY a b /c/\nRUN --mount=type=bind,source=uv.lock,target=uv.lock --mount=type=cache,target=/x true\nCOPY --from=y z /z"
    assert context_sources(parse(text)) == ("a", "b", "uv.lock")
    assert context_sources(parse("RUN --mount=target=/src true")) == (".",)
    assert context_sources(parse("RUN --mount=type=bind,from=y,target=/src true")) == ()
    assert context_sources(parse("RUN --mount=source=$x,target=/src true")) is None
