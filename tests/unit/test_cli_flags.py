"""Flags made from type hints."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from squall.cli.program.flags import parse
from squall.exception import InvalidError


def call(function: Callable[..., Any], *words: str) -> Any:
    args, kwargs = parse("squall run t.py", function, words)
    return function(*args, **kwargs)


def everything(
    i: int,
    f: float = 0.5,
    flag: bool = False,
    name: str = "x",
    when: datetime | None = None,
    old: Optional[int] = None,  # noqa: UP045
    many: list[int] = [],  # noqa: B006
    path: Path = Path(),
    mode: Literal["fast", "slow", 3] = "fast",
    untyped=7,  # type: ignore[no-untyped-def]
    two_words: str = "",
) -> dict[str, Any]:
    """Does everything."""
    return dict(locals())


def test_types() -> None:
    found = call(
        everything,
        *"--i -3 --f 1e3 --flag --name --when=2026-01-31T12:00:00+00:00 --old 4 --many 1 --many 2 --path /x --mode 3 --untyped 9 --two-words y".replace(
            "--name", "--name=-dash"
        ).split(),
    )
    assert found == {
        "i": -3,
        "f": 1000.0,
        "flag": True,
        "name": "-dash",
        "when": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "old": 4,
        "many": [1, 2],
        "path": Path("/x"),
        "mode": 3,
        "untyped": 9,
        "two_words": "y",
    }


def test_defaults_and_negated_flags() -> None:
    found = call(everything, "--i", "1", "--no-flag", "--two_words", "both spellings")
    assert (found["f"], found["flag"], found["many"], found["when"], found["two_words"]) == (0.5, False, [], None, "both spellings")


def test_variadic_and_keyword_only() -> None:
    def variadic(first: int, *rest: int, key: str = "k") -> tuple[Any, ...]:
        return first, rest, key

    assert call(variadic, "--first", "1", "2", "3", "--key", "x") == (1, (2, 3), "x")
    assert call(variadic, "2", "--first", "1") == (1, (2,), "k")

    def words(*args: str) -> tuple[str, ...]:
        return args

    assert call(words, "--", "--not-a-flag", "x") == ("--not-a-flag", "x")
    assert call(words) == ()


def test_positional_only_and_optional_without_default() -> None:
    def odd(a: int, /, b: str | None, **rest: int) -> tuple[Any, ...]:
        return a, b, rest

    assert call(odd, "--a", "1") == (1, None, {})


def test_single_letters_have_a_short_form() -> None:
    def short(n: int = 1) -> int:
        return n

    assert call(short, "-n", "2") == call(short, "--n", "2") == 2


@pytest.mark.parametrize(
    "words", [[], ["--i", "x"], ["--i", "1", "--mode", "other"], ["--i", "1", "--unknown", "2"], ["--i", "1", "--when", "soon"], ["--i", "1", "--nam", "x"]]
)
def test_wrong_words_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call(everything, *words)
    assert caught.value.code == 2
    assert "squall run t.py" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        call(everything, "--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "Does everything." in shown
    assert "(default: 0.5)" in shown
    assert "--no-flag" in shown


def test_types_that_a_command_line_can_not_give() -> None:
    def wrong(x: dict[str, int]) -> None: ...

    with pytest.raises(InvalidError, match=r"Parameter `x` has unparseable annotation: dict\[str, int\]"):
        call(wrong, "--x", "1")


def test_a_function_of_words_alone_reads_its_command_line_by_itself() -> None:
    def own(*words: str) -> tuple[str, ...]:
        return words

    def numbers(*words: int) -> tuple[int, ...]:
        return words

    assert call(own, "a", "--b=1", "--", "-c") == ("a", "--b=1", "-c")
    assert call(numbers, "-1", "2") == (-1, 2)
    for function, words in ((own, ["--help"]), (numbers, ["x"])):
        with pytest.raises(SystemExit):
            call(function, *words)


def test_help_shows_flags_without_a_type(capsys: pytest.CaptureFixture[str]) -> None:
    from squall.cli.main import main

    for words in (["squall", "shell", "--help"], ["squall", "app", "logs", "-h"], ["squall"]):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr("sys.argv", words)
            main()
        said = capsys.readouterr()
        assert "--help" in said.out + said.err
        assert "<bool>" not in said.out + said.err


def test_messages_name_a_flag_once(capsys: pytest.CaptureFixture[str]) -> None:
    def main(n: int, batch_size: int) -> None: ...

    for words, said in (
        ([], "required: --n, --batch-size"),
        (["--n", "x", "--batch-size", "1"], "argument --n: invalid int"),
        (["--n"], "argument --n: expected"),
    ):
        with pytest.raises(SystemExit):
            parse("prog", main, words)
        assert said in capsys.readouterr().err
