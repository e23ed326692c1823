"""`.env` files: what of them counts, and what is refused."""

from pathlib import Path

import pytest

import squall
from squall.exception import InvalidError
from squall.sdk.storage.dotenv import find, parse


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("A=1\nB=two words\n", {"A": "1", "B": "two words"}),
        ("\n# all\n  # of this\n\nA=1", {"A": "1"}),
        ("export A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=\nB=''\nC=\"\"", {"A": "", "B": "", "C": ""}),
        ("A = spaced   # comment\nB=has#hash", {"A": "spaced", "B": "has#hash"}),
        ("A='as it \\n is # here' # comment", {"A": "as it \\n is # here"}),
        ('A="line\\nfeed \\"quoted\\" \\\\ \\$"', {"A": 'line\nfeed "quoted" \\ $'}),
        ('A="two\nlines"\nB=1', {"A": "two\nlines", "B": "1"}),
        ("A=1\nA=2", {"A": "2"}),
        ("KEY=a=b=c", {"KEY": "a=b=c"}),
    ],
)
def test_what_counts(text: str, values: dict[str, str]) -> None:
    assert parse(text, "x") == values


@pytest.mark.parametrize(("text", "line"), [("A", 1), ("A=1\nno good: hush\n", 2), ("A='open\n", 1), ('A="x" junk', 1), ("1A=2", 1)])
def test_what_is_refused_names_the_line_and_shows_nothing_of_it(text: str, line: int) -> None:
    with pytest.raises(InvalidError, match=rf"x: line {line} ") as caught:
        parse(text, "x")
    assert "hush" not in str(caught.value)


def test_the_nearest_file_above_is_found(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=above")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find(below, ".env") == tmp_path / ".env"
    assert find(below / "program.py", ".env") == tmp_path / ".env"
    (below / "own.env").write_text("A=below")
    assert squall.Secret.from_dotenv(below)._inline == {"A": "above"}
    assert squall.Secret.from_dotenv(below, filename="own.env")._inline == {"A": "below"}
    with pytest.raises(InvalidError, match="nowhere-to-be-found"):
        squall.Secret.from_dotenv(below, filename="nowhere-to-be-found")
