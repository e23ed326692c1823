"""The table of operations is total: a row for each command of the wire, and each message of the wire is of one side."""

from collections.abc import Iterator
from types import SimpleNamespace, UnionType
from typing import Any, get_args

import msgspec
import pytest

from squall.gateway.api.openapi import document
from squall.gateway.auth.rights import Right
from squall.gateway.rpc import dispatch
from squall.gateway.rpc.operations import TABLE, operation
from squall.wire import deploys, messages, state

assert dispatch.answer  # it imports the modules that fill the table


def members(union: Any) -> Iterator[type[msgspec.Struct]]:
    for member in get_args(union):
        if isinstance(member, UnionType):
            yield from members(member)
        else:
            yield member


def test_each_command_of_the_wire_has_exactly_one_row() -> None:
    assert set(TABLE) == set(members(messages.Command))
    assert {row.request for row in TABLE.values()} == set(TABLE)


def test_each_message_of_the_wire_is_a_command_an_answer_or_of_the_connection() -> None:
    known = {
        kind
        for union in (messages.Command, messages.Answer, messages.FromClient, messages.ToClient, messages.FromContainer, messages.ToRunner)
        for kind in members(union)
    }
    there = {
        kind
        for module in (messages, state, deploys)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__struct_config__.tag is not None
    }
    assert there - known == set()


def test_each_row_answers_with_what_the_protocol_has_for_answers() -> None:
    answers = set(members(messages.Answer))
    for row in TABLE.values():
        assert set(get_args(row.answer) or (row.answer,)) <= answers, row.name


def test_two_functions_for_one_command_are_refused() -> None:
    async def again(session: Any, request: int, command: messages.ListApps) -> messages.Rows:
        raise NotImplementedError

    with pytest.raises(TypeError, match="ListApps is answered by two functions"):
        operation(Right.READ)(again)


def test_no_command_needs_less_than_its_row_says() -> None:
    """The HTTP API refuses by the row before it reads the fields."""
    words = ("", "list", "inspect", "logs", "prune", "shell", "len", "has", "total", "clear", "take", "delete")
    for row in TABLE.values():
        for word in words:
            command = SimpleNamespace(op=word, what=word, take=bool(word), create=bool(word))
            if row.exact is not None:
                assert row.exact(command) >= row.right, (row.name, word)


def test_the_description_says_what_each_command_needs() -> None:
    paths = document("0")["paths"]
    for row in TABLE.values():
        if row.lasting:
            assert f"/api/v1/commands/{row.name}" not in paths
        else:
            said = paths[f"/api/v1/commands/{row.name}"]["post"]["description"]
            assert ("owner alone" if row.right is Right.OWNER else f"kind {row.right.kind}") in said
