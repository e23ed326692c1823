"""Which local files go along: patterns with the rules of `.dockerignore` (Docker documentation, ".dockerignore file").

`*` and `?` do not cross ``/``, ``**`` does; ``!`` takes back what an earlier pattern matched; a pattern that matches a directory matches all that is in it;
the last matching pattern decides.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from squall.model.errors import InvalidError

#: What the builder methods take as ``ignore=``.
Ignore = Sequence[str] | Callable[[Path], bool]


class FilePatternMatcher:
    """A predicate on relative paths: true when the patterns match. ``~matcher`` is its opposite.

    Raises:
        InvalidError: a pattern that is not text or has an open bracket.
    """

    def __init__(self, *pattern: str) -> None:
        self.patterns = pattern
        self._rules = [rule for text in pattern if (rule := _compile(text)) is not None]

    @classmethod
    def from_file(cls, file_path: str | Path) -> Self:
        """Patterns from the lines of a file; lines that are empty or start with ``#`` are left out.

        Raises:
            InvalidError: the file can't be read.
        """
        try:
            lines = Path(file_path).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidError(f"file_path={str(file_path)!r} can't be read: {error}") from error
        return cls(*(line for line in lines if not line.startswith("#")))

    def __call__(self, file_path: str | Path) -> bool:
        # str.strip of "./" would eat the dot of hidden names.
        path = os.path.normpath(file_path).replace(os.sep, "/").lstrip("/")
        matched = False
        for take_back, expression in self._rules:
            if take_back == matched and expression.match(path) is not None:
                matched = not take_back
        return matched

    def can_prune_directories(self) -> bool:
        """Whether all of a directory that matches is matched: no pattern takes anything back."""
        return not any(take_back for take_back, _ in self._rules)

    def __invert__(self) -> Callable[[Path], bool]:
        return _Opposite(self)

    def __repr__(self) -> str:
        return f"FilePatternMatcher({', '.join(map(repr, self.patterns))})"


class _Opposite:
    def __init__(self, matcher: FilePatternMatcher) -> None:
        self._matcher = matcher

    def __call__(self, file_path: str | Path) -> bool:
        return not self._matcher(file_path)

    def can_prune_directories(self) -> bool:
        """Never: what lies in a directory that does not match may match."""
        return False

    def __invert__(self) -> FilePatternMatcher:
        return self._matcher

    def __repr__(self) -> str:
        return f"~{self._matcher!r}"


def as_predicate(parameter: str, ignore: object) -> Callable[[Path], bool]:
    """The predicate of an ``ignore=`` parameter: a callable stays, a sequence of patterns becomes a matcher.

    Raises:
        InvalidError: neither of them.
    """
    if callable(ignore):
        return ignore
    if isinstance(ignore, str) or not isinstance(ignore, Sequence):
        raise InvalidError(f"{parameter} is neither a list of patterns nor a function of a path but {type(ignore).__name__}")
    return FilePatternMatcher(*ignore)


def _compile(text: str) -> tuple[bool, re.Pattern[str]] | None:
    if not isinstance(text, str):
        raise InvalidError(f"pattern {text!r} is not text")
    take_back = text.strip().startswith("!")
    cleaned = text.strip().removeprefix("!").strip()
    if not cleaned:
        return None
    path = os.path.normpath(cleaned).replace(os.sep, "/").lstrip("/")
    if path in ("", "."):
        return None
    try:
        return take_back, re.compile(_expression(path) + r"(?:/.*)?\Z", re.DOTALL)
    except re.error as error:
        raise InvalidError(f"pattern {text!r} is malformed: {error}") from error


def _expression(pattern: str) -> str:
    parts, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            parts.append("(?:.*/)?")
            at += 3
            continue
        if pattern.startswith("**", at):
            parts.append(".*")
            at += 2
            continue
        if char == "[":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise InvalidError(f"pattern {pattern!r} has an open bracket")
            body = pattern[at + 1 : end].replace("\\", "\\\\")
            parts.append("[^" + body[1:] + "]" if body[0] in "^!" else "[" + body + "]")
            at = end + 1
            continue
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            char = re.escape(pattern[at])
        else:
            char = {"*": "[^/]*", "?": "[^/]"}.get(char) or re.escape(char)
        parts.append(char)
        at += 1
    return "".join(parts)


#: Everything but Python source: what stays behind of a package unless the user says otherwise.
NON_PYTHON_FILES: Callable[[Path], bool] = ~FilePatternMatcher("**/*.py")
