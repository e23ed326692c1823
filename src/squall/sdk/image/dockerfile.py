"""Reading Dockerfiles: from text to instructions (docs.docker.com/reference/dockerfile). Pure; what they mean is the builder's business.

The client reads them to know which local files a build takes, the server to build.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from squall.model.errors import InvalidError

_NAMES = frozenset(
    ("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER")
    + ("VOLUME", "WORKDIR")
)
#: These take ``--name=value`` before their arguments.
_FLAGGED = frozenset({"ADD", "COPY", "FROM", "HEALTHCHECK", "RUN"})
_DIRECTIVE = re.compile(r"#\s*([a-z]+)\s*=\s*(\S+)\s*$", re.I)
_HEREDOC = re.compile(r"<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\2")
_VARIABLE = re.compile(r"\\(.)|\$(?:\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+?]|##?|%%?|//?)((?:[^{}]|\$\{[^{}]*\})*))?\}|([A-Za-z_][A-Za-z0-9_]*))")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        line: where it begins, from 1.
        text: what follows its name and flags, with continued lines joined; variables are as written.
        flags: ``--name=value`` before the arguments; without a value it is ``true``.
        words: the list of its JSON form; None when it is not written so.
        documents: bodies of its here-documents, in order, by name; `quoted` ones keep their variables.
    """

    line: int
    name: str
    text: str
    flags: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] | None = None
    documents: tuple[tuple[str, str], ...] = ()
    quoted: frozenset[str] = field(default_factory=frozenset)

    @property
    def title(self) -> str:
        first = " ".join(self.text.split())
        return f"{self.name} {first if len(first) <= 80 else first[:79] + '…'}"

    def flag(self, name: str) -> str | None:
        return next((value for key, value in self.flags if key == name), None)

    def mounts(self) -> list[dict[str, str]]:
        """Options of each ``--mount`` of a RUN."""
        return [dict(part.partition("=")[::2] for part in value.split(",")) for key, value in self.flags if key == "mount"]

    def arguments(self) -> tuple[str, ...]:
        """The words of a COPY or ADD, which are separated by white space where they are no JSON."""
        return self.words if self.words is not None else tuple(self.text.split())


def parse(text: str, *, name: str = "Dockerfile") -> tuple[Instruction, ...]:
    """The instructions of a Dockerfile, or of some lines of one.

    Raises:
        InvalidError: a line is no instruction; the message has its number.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    escape, number = _directives(lines)
    found = []
    while number < len(lines):
        begin, line = number, lines[number]
        number += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        logical = line.rstrip()
        while logical.endswith(escape) and not logical.endswith(escape * 2):
            logical = logical[: -len(escape)]
            while number < len(lines) and (lines[number].lstrip().startswith("#") or not lines[number].strip()):
                number += 1  # comments and empty lines within a continued instruction are left out
            if number >= len(lines):
                break
            logical += lines[number].rstrip()
            number += 1
        instruction, number = _instruction(logical.strip(), begin + 1, lines, number, name)
        found.append(instruction)
    return tuple(found)


def substitute(text: str, values: Mapping[str, str], *, unknown: str | None = "") -> str:
    """`text` with variables replaced in all forms that Dockerfiles have (``$x``, ``${x:-word}``, ``${x%%pattern}``, ``${x/pattern/word}`` ...).

    A backslash before a dollar sign makes it one.

    Args:
        unknown: stands for a variable without a value, with ``{}`` for its name; None leaves it as it is written.

    Raises:
        InvalidError: a variable of the form ``${x:?message}`` has no value.
    """

    def value(match: "re.Match[str]") -> str:
        if match[1] is not None:
            return match[1] if match[1] == "$" else match[0]
        name = match[2] or match[5]
        known = values.get(name)
        if match[3] is not None and match[3][0] in "#%/":
            return _edited(known or "", match[3], substitute(match[4], values, unknown=unknown))
        if match[3] is not None:
            has = known is not None and (known != "" or not match[3].startswith(":"))
            if match[3].endswith("-"):
                return known if has and known is not None else substitute(match[4], values, unknown=unknown)
            if match[3].endswith("?"):
                if not has or known is None:
                    raise InvalidError(f"{name}: {match[4] or 'it has no value'}")
                return known
            return substitute(match[4], values, unknown=unknown) if has else ""
        if known is not None:
            return known
        return match[0] if unknown is None else unknown.replace("{}", name)

    return _VARIABLE.sub(value, text)


def _edited(value: str, how: str, pattern: str) -> str:
    """``#`` and ``%`` take off the shortest beginning or end that matches, doubled the longest; ``/`` replaces the first match, doubled all."""
    if how[0] == "/":
        pattern, _, word = pattern.partition("/")
        return re.sub(_glob(pattern), lambda match: word, value, count=1 if how == "/" else 0) if pattern else value
    lengths = range(len(value) + 1) if len(how) == 1 else range(len(value), -1, -1)
    expression = re.compile(_glob(pattern))
    for length in lengths:
        if how[0] == "#" and expression.fullmatch(value[:length]):
            return value[length:]
        if how[0] == "%" and expression.fullmatch(value[len(value) - length :]):
            return value[: len(value) - length]
    return value


def _glob(pattern: str) -> str:
    return "".join({"*": "(?s:.*)", "?": "(?s:.)"}.get(sign, re.escape(sign)) for sign in pattern)


def assignments(instruction: Instruction) -> list[tuple[str, str]]:
    """The names and values of an ENV or ARG, without quotes; an ARG without a value has an empty text of None's place left to the caller.

    Raises:
        InvalidError: not of the form ``name=value``.
    """
    words = _split(instruction)
    if instruction.name == "ENV" and words and "=" not in words[0]:
        name, _, value = instruction.text.strip().partition(" ")
        return [(name, value.strip())]
    pairs = []
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals:
            raise InvalidError(f"line {instruction.line}: {instruction.name} takes name=value, not {word!r}")
        pairs.append((name, value))
    return pairs


def context_sources(instructions: Sequence[Instruction]) -> tuple[str, ...] | None:
    """Patterns of the local files that COPY, ADD and bind mounts of RUN take. None: all, since a pattern holds variables."""
    patterns: list[str] = []
    for instruction in instructions:
        if instruction.name in ("COPY", "ADD") and instruction.flag("from") is None:
            documents = {f"<<{name}" for name, _ in instruction.documents}
            for source in instruction.arguments()[:-1]:
                if is_remote(source) or source.replace("'", "").replace('"', "").replace("<<-", "<<") in documents:
                    continue
                if "$" in source:
                    return None
                patterns.append(source)
        for options in instruction.mounts():
            if options.get("type", "bind") == "bind" and "from" not in options:
                source = options.get("source") or options.get("src") or "."
                if "$" in source:
                    return None
                patterns.append(source)
    return tuple(patterns)


def is_remote(source: str) -> bool:
    """Whether the source of an ADD is not a local file."""
    return source.startswith(("http://", "https://", "git@", "git://", "ssh://"))


def _directives(lines: Sequence[str]) -> tuple[str, int]:
    """(the escape character, lines that hold parser directives)."""
    for number, line in enumerate(lines):
        match = _DIRECTIVE.match(line.strip())
        if match is None:
            return "\\", 0
        if match[1].lower() == "escape":
            return match[2], number + 1
    return "\\", 0


def _instruction(logical: str, line: int, lines: Sequence[str], number: int, name: str) -> tuple[Instruction, int]:
    word, _, rest = logical.partition(" ") if " " in logical else logical.partition("\t")
    keyword = word.upper()
    if keyword not in _NAMES:
        raise InvalidError(f"{name} line {line}: {word!r} is not an instruction")
    rest = rest.strip()
    flags: list[tuple[str, str]] = []
    while keyword in _FLAGGED and rest.startswith("--"):
        flag, _, rest = rest.partition(" ")
        key, _, value = flag[2:].partition("=")
        flags.append((key, value or "true"))
        rest = rest.strip()
    documents: list[tuple[str, str]] = []
    quoted = set()
    if keyword in ("RUN", "COPY", "ADD"):
        for strip, quote, end in _HEREDOC.findall(rest):
            body = []
            while number < len(lines) and (lines[number].lstrip("\t") if strip else lines[number]).rstrip() != end:
                body.append(lines[number].lstrip("\t") if strip else lines[number])
                number += 1
            if number >= len(lines):
                raise InvalidError(f"{name} line {line}: the here-document {end} has no end")
            number += 1
            documents.append((end, "".join(f"{text}\n" for text in body)))
            if quote:
                quoted.add(end)
    if not rest and keyword not in ("CMD", "ENTRYPOINT"):
        raise InvalidError(f"{name} line {line}: {keyword} has no arguments")
    words = _json(rest)
    if words is None and keyword == "SHELL":
        raise InvalidError(f'{name} line {line}: SHELL takes a list, for example SHELL ["/bin/bash", "-c"]')
    minimum = 2 if keyword in ("COPY", "ADD") else 1
    if keyword in ("COPY", "ADD") and len(words if words is not None else rest.split()) < minimum:
        raise InvalidError(f"{name} line {line}: {keyword} takes a source and a destination")
    return Instruction(line, keyword, rest, tuple(flags), words, tuple(documents), frozenset(quoted)), number


def _json(text: str) -> tuple[str, ...] | None:
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except ValueError:
        return None  # as Docker has it: then it is a shell command that begins with a bracket
    return tuple(words) if isinstance(words, list) and all(isinstance(word, str) for word in words) else None


def _split(instruction: Instruction) -> list[str]:
    """Words of an ENV. Quotes go; dollar signs that stand for themselves have a backslash before them, for `substitute`."""
    words: list[str] = []
    word: list[str] | None = None
    quote, text = "", iter(instruction.text)
    for sign in text:
        if sign.isspace() and not quote:
            words += ["".join(word)] if word is not None else []
            word = None
            continue
        word = word if word is not None else []
        if sign == "\\" and quote != "'":
            following = next(text, "")
            kept = following == "$" or (quote and following not in '"\\')
            word.append(f"\\{following}" if kept else following)
        elif sign in "'\"" and quote in ("", sign):
            quote = "" if quote else sign
        else:
            word.append("\\$" if sign == "$" and quote == "'" else sign)
    if quote:
        raise InvalidError(f"line {instruction.line}: {instruction.name}: no closing quotation")
    return words + (["".join(word)] if word is not None else [])
