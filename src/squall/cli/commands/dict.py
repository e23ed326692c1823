"""`squall dict`: what named dicts hold."""

from typing import Annotated, Any

import typer

from squall.cli.commands.named_objects import AllowMissing, AsJson, Env, Yes, confirm, group, listed

dicts = group("Dicts: entries that containers share.")
Name = Annotated[str, typer.Argument(metavar="NAME")]


@dicts.command("create")
def create(name: Name, env: Env = None) -> None:
    """Create a dict."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.dict import Dict

    with plain_errors():
        Dict.objects.create(name, environment_name=env)
        say(f'✓ dict {name} is there; use it with  squall.Dict.from_name("{name}")')


@dicts.command("list")
def list_(env: Env = None, as_json: AsJson = False) -> None:
    """Named dicts."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, age, short_id, show

    columns = (Column("NAME", ("name",)), Column("ENTRIES", ("entries",)), Column("AGE", ("created_at",), age), Column("ID", ("id",), short_id))
    with plain_errors():
        show(listed("dict", env), columns, as_json=as_json, empty="no dicts yet; make the first one with  squall dict create NAME")


@dicts.command("get")
def get(
    name: Name, key: Annotated[str, typer.Argument(metavar="KEY", help="Text; of other keys Python's spelling, as items shows it.")], env: Env = None
) -> None:
    """Print the value of a key."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.model.errors import NotFoundError
    from squall.sdk.storage.dict import Dict

    missing = object()
    with plain_errors():
        found = Dict.from_name(name, environment_name=env)
        value = found.get(key, missing)
        if value is missing and (other := _literal(key)) is not None:
            value = found.get(other, missing)
        if value is missing:
            raise NotFoundError(f"dict {name} has no key {key!r}; squall dict items {name} shows what it has")
        print(value)


@dicts.command("items")
def items(
    name: Name,
    n: Annotated[int, typer.Argument(metavar="[N]", min=1, help="How many.")] = 20,
    all_: Annotated[bool, typer.Option("--all", "-a", help="All of them.")] = False,
    repr_: Annotated[bool, typer.Option("--repr", "-r", help="Values in Python's spelling; they always are for keys.")] = False,
    as_json: AsJson = False,
    env: Env = None,
) -> None:
    """Print entries."""
    from itertools import islice

    from squall.cli.ui.existing_server import plain_errors, say
    from squall.cli.ui.listing import Column, show
    from squall.sdk.storage.dict import Dict

    with plain_errors():
        found = Dict.from_name(name, environment_name=env)
        rows = [{"key": _json(key, as_json), "value": _json(value, as_json, repr_)} for key, value in islice(found.items(), None if all_ else n)]
        show(rows, (Column("KEY", ("key",)), Column("VALUE", ("value",))), as_json=as_json, empty=f"dict {name} is empty")
        if not all_ and len(rows) == n and (count := found.len()) > n:
            say(f"• {n} of {count} entries; --all shows all")


@dicts.command("clear")
def clear(name: Name, env: Env = None, yes: Yes = False) -> None:
    """Remove all entries."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.dict import Dict

    with plain_errors():
        confirm(f"Remove all entries of the dict {name}?", yes)
        Dict.from_name(name, environment_name=env).clear()
        say(f"✓ dict {name} is empty")


@dicts.command("delete")
def delete(name: Name, env: Env = None, allow_missing: AllowMissing = False, yes: Yes = False) -> None:
    """Delete a dict with all entries."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.dict import Dict

    with plain_errors():
        confirm(f"Delete the dict {name}?", yes)
        Dict.objects.delete(name, allow_missing=allow_missing, environment_name=env)
        say(f"✓ dict {name} is deleted")


def _literal(text: str) -> Any:
    import ast

    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None


def _json(value: Any, as_json: bool, as_repr: bool = True) -> Any:
    if as_json and isinstance(value, str | int | float | bool | None | list | dict):
        return value
    return repr(value) if as_repr or as_json else str(value)
