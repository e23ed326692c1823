"""A method of a class as a command: its flags are the class's parameters and its own."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from squall.cli.program.flags import hints_of, parse
from squall.sdk.function.cls import Cls
from squall.sdk.function.function import Function

_TYPES = {"int": int, "str": str, "bytes": str, "bool": bool}


@dataclass(frozen=True, slots=True)
class Method:
    """`name` of `cls`."""

    cls: Cls
    name: str

    @property
    def tag(self) -> str:
        return f"{self.cls._tag}.{self.name}"

    def parse(self, prog: str, argv: Sequence[str]) -> tuple[Function[..., Any, Any], list[Any], dict[str, Any]]:
        """The method of the object that the flags describe, and its arguments.

        Raises:
            InvalidError, SystemExit: as `flags.parse`.
        """
        args, kwargs = parse(prog, self._signed(), argv)
        own = {one.name: kwargs.pop(one.name) for one in self._parameters()}
        own = {one.name: own[one.name].encode() if one.type == "bytes" and isinstance(own[one.name], str) else own[one.name] for one in self._parameters()}
        function: Function[..., Any, Any] = getattr(self.cls(**own), self.name)
        return function, args, kwargs

    def _parameters(self) -> list[Any]:
        taken = inspect.signature(self.cls._body(self.name)).parameters
        return [one for one in self.cls._parameters if one.name not in taken]

    def _signed(self) -> Callable[..., None]:
        """Something with the signature of both."""
        body = self.cls._body(self.name)

        def both() -> None: ...

        _, *own = inspect.signature(body).parameters.values()
        rest = [one for one in own if one.kind is one.VAR_KEYWORD]
        added = [
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=inspect.Parameter.empty if one.required else one.default)
            for one in self._parameters()
        ]
        both.__signature__ = inspect.Signature([*(one for one in own if one not in rest), *added, *rest])  # type: ignore[attr-defined]
        both.__annotations__ = {**hints_of(body), **{one.name: _TYPES[one.type] for one in self._parameters()}}
        both.__doc__ = body.__doc__ or self.cls.__doc__
        return both
