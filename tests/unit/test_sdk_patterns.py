"""Patterns: the table follows the examples of Docker's `.dockerignore` documentation and of moby's patternmatcher tests."""

from pathlib import Path

import pytest

from squall.exception import InvalidError
from squall.sdk.source.patterns import NON_PYTHON_FILES, FilePatternMatcher

TABLE = [
    (("*.log",), "a.log", True),
    (("*.log",), "sub/a.log", False),
    (("**/*.log",), "sub/deep/a.log", True),
    (("**/*.log",), "a.log", True),
    (("*/temp*",), "some/temporary.txt", True),
    (("*/temp*",), "some/temp", True),
    (("*/temp*",), "a/b/temp", False),
    (("temp?",), "tempa", True),
    (("temp?",), "temp", False),
    (("docs",), "docs/readme.md", True),
    (("docs",), "docs2/readme.md", False),
    (("docs/",), "docs/readme.md", True),
    (("/docs",), "docs/readme.md", True),
    (("./docs",), "docs/x", True),
    (("*.md", "!README.md"), "README.md", False),
    (("*.md", "!README.md"), "CHANGES.md", True),
    (("!README.md", "*.md"), "README.md", True),
    (("*.md", "!README*.md", "README-secret.md"), "README-secret.md", True),
    (("**",), "any/thing", True),
    (("**", "!keep/**"), "keep/this", False),
    (("a/**/b",), "a/b", True),
    (("a/**/b",), "a/x/y/b", True),
    (("a/**",), "a/x/y", True),
    (("[a-c].txt",), "b.txt", True),
    (("[^a-c].txt",), "b.txt", False),
    (("[^a-c].txt",), "d.txt", True),
    (("a.b",), "axb", False),
    (("a+b(c)",), "a+b(c)", True),
    ((r"\*.txt",), "*.txt", True),
    ((r"\*.txt",), "a.txt", False),
    ((".git",), ".git/config", True),
    (("",), "a", False),
    (("  a  ",), "a", True),
]


@pytest.mark.parametrize(("patterns", "path", "matches"), TABLE)
def test_table(patterns: tuple[str, ...], path: str, matches: bool) -> None:
    assert FilePatternMatcher(*patterns)(Path(path)) is matches
    assert (~FilePatternMatcher(*patterns))(Path(path)) is not matches


def test_twice_inverted_is_itself() -> None:
    matcher = FilePatternMatcher("a")
    opposite = ~matcher
    assert ~opposite is matcher  # type: ignore[operator]


def test_non_python() -> None:
    assert NON_PYTHON_FILES(Path("a/b.txt"))
    assert not NON_PYTHON_FILES(Path("a/b.py"))
    assert not NON_PYTHON_FILES(Path("b.py"))


def test_from_file(tmp_path: Path) -> None:
    (tmp_path / ".ignore").write_text("# comment\n\n*.log\n!keep.log\n")
    matcher = FilePatternMatcher.from_file(tmp_path / ".ignore")
    assert matcher("a.log")
    assert not matcher("keep.log")
    assert not matcher("# comment")
    with pytest.raises(InvalidError, match="file_path"):
        FilePatternMatcher.from_file(tmp_path / "missing")


def test_malformed() -> None:
    for wrong in ("[a", 5):
        with pytest.raises(InvalidError, match="pattern"):
            FilePatternMatcher(wrong)  # type: ignore[arg-type]


def test_whether_directories_may_be_skipped() -> None:
    assert FilePatternMatcher("build", "**/*.pyc").can_prune_directories()
    assert not FilePatternMatcher("build", "!build/kept").can_prune_directories()
    assert not NON_PYTHON_FILES.can_prune_directories()  # type: ignore[attr-defined]
