"""Flags of a command made from a function's parameters and type hints."""

import argparse
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from squall.model.errors import InvalidError

_SCALARS: tuple[type, ...] = (int, float, str, datetime, Path)
_MISSING = inspect.Parameter.empty


def parse(prog: str, function: Callable[..., Any], argv: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments for `function` from the words of a command line.

    ``--x 1`` for int, float, str, Path and datetime (ISO 8601), ``--x``/``--no-x`` for bool, repeated ``--x`` for list, words without a flag for
    ``*args``. A parameter without a default is required unless it may be None. A function that has ``*args`` alone gets all words as they are, so that
    it can read its command line by itself.

    Raises:
        InvalidError: a parameter has a type that can't come from a command line.
        SystemExit: a wrong word (status 2), or ``--help`` (status 0).
    """
    parser = _Parser(prog=prog, description=inspect.getdoc(function), allow_abbrev=False, formatter_class=_Formatter)
    parameters = list(inspect.signature(function).parameters.values())
    hints = hints_of(function)
    variadic = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        hint = hints.get(parameter.name, _MISSING)
        if parameter.kind is parameter.VAR_POSITIONAL:
            variadic = True
            parser.add_argument(parameter.name, nargs="*", type=_converter(parameter.name, hint, _MISSING), metavar=parameter.name.upper())
        else:
            _add_flag(parser, parameter, hint)
    words = list(argv)
    if variadic and len(parameters) == 1 and not {"-h", "--help"} & {*words[:1]}:
        return _all_words(parser, parameters[0], hints, words), {}
    values = vars(parser.parse_intermixed_args(words) if variadic and "--" not in words else parser.parse_args(words))
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            args += values[parameter.name]
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = values[parameter.name]
        elif parameter.kind is not parameter.VAR_KEYWORD:
            args.append(values[parameter.name])
    return args, kwargs


def _all_words(parser: argparse.ArgumentParser, parameter: inspect.Parameter, hints: dict[str, Any], words: list[str]) -> list[Any]:
    if "--" in words:
        words.remove("--")  # says that what follows are no flags, which is so anyhow
    convert = _converter(parameter.name, hints.get(parameter.name, _MISSING), _MISSING)
    try:
        return [convert(word) for word in words]
    except (ValueError, argparse.ArgumentTypeError) as error:
        parser.error(f"argument {parameter.name}: {error}")


class _Parser(argparse.ArgumentParser):
    """Its messages name a flag as its users write it, and not in all its spellings."""

    def error(self, message: str) -> NoReturn:
        for action in self._actions:
            if action.option_strings:
                message = message.replace("/".join(action.option_strings), action.option_strings[0])
        super().error(message)


class _Formatter(argparse.HelpFormatter):
    """Keeps the lines of a docstring."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Type hints of a function; those that can't be resolved are left out."""
    try:
        return typing.get_type_hints(function)
    except Exception:  # a name that only a type checker knows; the annotations as written then have to do
        return {name: value for name, value in inspect.get_annotations(function).items() if not isinstance(value, str)}


def _add_flag(parser: argparse.ArgumentParser, parameter: inspect.Parameter, hint: Any) -> None:
    name, default = parameter.name, parameter.default
    hint, optional = _without_none(hint)
    names = list(dict.fromkeys(f"{'-' if len(spelled) == 1 else '--'}{spelled}" for spelled in (name.replace("_", "-"), name)))
    if len(name) == 1:
        names.insert(0, f"--{name}")
    required = default is _MISSING and not optional
    shown = None if default in (_MISSING, None) else f"(default: {default})"
    given: dict[str, Any] = {"dest": name, "required": required, "default": None if default is _MISSING else default, "help": shown}
    if hint is bool or (hint is _MISSING and isinstance(default, bool)):
        parser.add_argument(*(flag for flag in names if flag.startswith("--")), action=_Switch, **given)
    elif get_origin(hint) in (list, Sequence, typing.Sequence) or hint is list:
        inner = (get_args(hint) or (str,))[0]
        parser.add_argument(*names, action="append", type=_converter(name, inner, _MISSING), metavar=_metavar(inner), **given)
    elif get_origin(hint) is Literal:
        choices = get_args(hint)
        by_text = {str(choice): choice for choice in choices}
        parser.add_argument(*names, type=_Choice(by_text), metavar="{" + ",".join(by_text) + "}", **given)
    else:
        parser.add_argument(*names, type=_converter(name, hint, default), metavar=_metavar(hint if hint is not _MISSING else type(default)), **given)


class _Switch(argparse.BooleanOptionalAction):
    """``--x`` and ``--no-x``; argparse's own turns ``--n_x`` into ``--no-n_x`` too, which nobody needs to see."""

    def format_usage(self) -> str:
        return " | ".join(flag for flag in self.option_strings if "_" not in flag)


class _Choice:
    """One of a Literal's values, by its text."""

    __name__ = "choice"

    def __init__(self, by_text: dict[str, Any]) -> None:
        self._by_text = by_text

    def __call__(self, text: str) -> Any:
        if text not in self._by_text:
            raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(self._by_text)}")
        return self._by_text[text]


def _without_none(hint: Any) -> tuple[Any, bool]:
    """``X | None`` -> (X, True)."""
    if get_origin(hint) in (Union, types.UnionType):
        members = [member for member in get_args(hint) if member is not type(None)]
        if len(members) < len(get_args(hint)) and len(members) == 1:
            return members[0], True
    return hint, False


def _converter(name: str, hint: Any, default: Any) -> Callable[[str], Any]:
    if hint is _MISSING:
        return _converter(name, type(default), None) if type(default) in _SCALARS else str
    if hint is Any or hint is object:
        return str
    if hint is datetime:
        return _datetime
    if hint in _SCALARS:
        kind: Callable[[str], Any] = hint
        return kind
    shown = hint.__name__ if isinstance(hint, type) else str(hint)
    raise InvalidError(
        f"Parameter `{name}` has unparseable annotation: {shown}. From a command line come int, float, bool, str, datetime, Path, Literal, list, and X | None"
    )


def _datetime(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date and time such as 2026-01-31T12:00:00") from None


def _metavar(hint: Any) -> str:
    return {int: "INTEGER", float: "FLOAT", datetime: "DATETIME", Path: "PATH"}.get(hint, "TEXT")
