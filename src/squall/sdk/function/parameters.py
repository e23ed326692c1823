"""Parameters of classes: declared with `parameter()`, given as keywords, and one set of them is one pool of containers."""

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from squall.model.errors import InvalidError
from squall.model.specs import Parameter

_TYPES: dict[str, type] = {"int": int, "str": str, "bytes": bytes, "bool": bool}
#: A class, since pickle carries those by their name: a serialized class has to mean the same one where it arrives.
_MISSING: Any = inspect.Parameter.empty


class WrongParameters(InvalidError, TypeError):
    """A class was given parameters that it does not have, or not those that it needs. A TypeError too, as it is for any Python class."""


class _Declared:
    """What `parameter()` leaves in the class body. On an object without a value of its own it stands for the default."""

    def __init__(self, default: Any, init: bool) -> None:
        self.default, self.init = default, init
        self.name = "?"

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        if self.default is _MISSING:
            raise AttributeError(f"{type(instance).__name__!r} object has no attribute {self.name!r}")
        return self.default


def parameter(*, default: Any = _MISSING, init: bool = True) -> Any:
    """A parameter of an `@app.cls` class, with its type as the annotation: ``size: int = squall.parameter(default=3)``.

    Args:
        default: without one, whoever makes an object has to give it.
        init: False for an attribute that is only annotated here and set by the class itself.
    """
    return _Declared(default, init)


def parameters_of(raw: type) -> tuple[Parameter, ...]:
    """The parameters of a class and its bases, in order of declaration.

    Raises:
        InvalidError: one has no annotation, another type than int, str, bytes or bool, or a default of another type.
    """
    found: dict[str, Parameter] = {}
    for owner in reversed(raw.__mro__):
        hints = inspect.get_annotations(owner)
        for name, declared in vars(owner).items():
            if not isinstance(declared, _Declared):
                found.pop(name, None)  # a subclass put something else in its place
            elif declared.init:
                found[name] = _spec(owner, name, declared, hints)
    return tuple(found.values())


def _spec(owner: type, name: str, declared: _Declared, hints: Mapping[str, Any]) -> Parameter:
    if name not in hints:
        raise InvalidError(f"parameter {name!r} of {owner.__name__} needs its type: {name}: int = squall.parameter()")
    hint = hints[name]
    kind = hint.strip("'\" ") if isinstance(hint, str) else getattr(hint, "__name__", str(hint))
    if kind not in _TYPES or not (isinstance(hint, str) or hint is _TYPES[kind]):
        raise InvalidError(f"parameter {name!r} of {owner.__name__} is a {kind}; parameters are int, str, bytes or bool")
    if declared.default is _MISSING:
        return Parameter(name, kind, required=True)
    if not _fits(declared.default, kind):
        raise InvalidError(f"the default of parameter {name!r} of {owner.__name__}, {declared.default!r}, is no {kind}")
    return Parameter(name, kind, required=False, default=declared.default)


def bind(what: str, parameters: tuple[Parameter, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from the defaults, by name and in one order: equal sets of parameters are equal values.

    Raises:
        WrongParameters: an unknown or missing name, a positional value, or another type.
    """
    if args:
        raise WrongParameters(f"{what} takes its parameters by name: {what}({', '.join(f'{one.name}=...' for one in parameters)})")
    known = {one.name: one for one in parameters}
    for name, value in kwargs.items():
        if name not in known:
            raise WrongParameters(f"{what} has no parameter {name!r}" + (f"; it has {', '.join(known)}" if known else ""))
        if not _fits(value, known[name].type):
            raise WrongParameters(f"parameter {name!r} of {what} is an {known[name].type}, not {value!r}".replace("an str", "a str").replace("an b", "a b"))
    if missing := [one.name for one in parameters if one.required and one.name not in kwargs]:
        raise WrongParameters(f"{what} needs {', '.join(f'{name}=' for name in missing)}")
    return {name: kwargs[name] for name in sorted(kwargs) if known[name].required or kwargs[name] != known[name].default}


def complete(parameters: tuple[Parameter, ...], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with the defaults of the others."""
    return {one.name: values.get(one.name, one.default) for one in parameters}


def pack(values: Mapping[str, Any]) -> bytes:
    """As they travel and name the pool; nothing for nothing.

    Raises:
        WrongParameters: an int of more than 64 bits.
    """
    try:
        return msgspec.msgpack.encode(dict(values)) if values else b""
    except OverflowError as error:
        raise WrongParameters(f"an int parameter has at most 64 bits: {error}") from error


def _fits(value: object, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and not (kind == "int" and isinstance(value, bool))
