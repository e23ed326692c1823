"""`squall secret`: values come from a prompt, a file or stdin, and are never shown."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from squall.cli.commands.named_objects import AllowMissing, AsJson, Env, Yes, confirm, group, listed
from squall.model.errors import InvalidError

secrets = group("Secrets: variables that the server keeps encrypted and gives to containers.")

Pairs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY | KEY=VALUE | KEY=-]...", help="KEY asks for the value, KEY=- reads it from stdin. KEY=VALUE stays in the shell's history."),
]
Dotenv = Annotated[Path | None, typer.Option("--from-dotenv", metavar="FILE", help="Variables of a .env file.")]
Json = Annotated[Path | None, typer.Option("--from-json", metavar="FILE", help="A JSON object of texts; - is stdin.")]


@secrets.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")], pairs: Pairs = None, from_dotenv: Dotenv = None, from_json: Json = None, env: Env = None,
    force: Annotated[bool, typer.Option("--force", help="Replace all variables of one that is there.")] = False,
) -> None:  # fmt: skip
    """Create a secret."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.wire.state import REFUSE, REPLACE

    with plain_errors():
        keys = _put(name, _values(pairs, from_dotenv, from_json), env, REPLACE if force else REFUSE)
        say(f'✓ secret {name} has {", ".join(keys)}   use it with  secrets=[squall.Secret.from_name("{name}")]')


@secrets.command("set")
def set_(
    name: Annotated[str, typer.Argument(metavar="NAME")], pairs: Pairs = None, from_dotenv: Dotenv = None, from_json: Json = None, env: Env = None,
    unset: Annotated[list[str] | None, typer.Option("--unset", metavar="KEY", help="Take a variable away.")] = None,
) -> None:  # fmt: skip
    """Change variables of a secret. Containers that run keep what they have; those that start get the new values."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.wire.state import MERGE

    with plain_errors():
        values = _values(pairs, from_dotenv, from_json) if pairs or from_dotenv or from_json or not unset else {}
        keys = _put(name, values, env, MERGE, tuple(unset or ()))
        say(f"✓ secret {name} has {', '.join(keys) or 'no variables'}")


@secrets.command("list")
def list_(env: Env = None, as_json: AsJson = False) -> None:
    """Secrets of an environment, with the names of their variables."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, age, show

    columns = (
        Column("NAME", ("name",)), Column("KEYS", ("keys",), ", ".join), Column("AGE", ("created_at",), age), Column("LAST USED", ("used_at",), age),
        Column("TROUBLE", ("trouble",)),
    )  # fmt: skip
    with plain_errors():
        show(listed("secret", env), columns, as_json=as_json, empty="no secrets yet; make the first one with  squall secret create NAME KEY")


@secrets.command("delete")
def delete(name: Annotated[str, typer.Argument(metavar="NAME")], env: Env = None, allow_missing: AllowMissing = False, yes: Yes = False) -> None:
    """Delete a secret. Apps that need it start no more containers."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.secret import Secret

    with plain_errors():
        confirm(f"Delete the secret {name}?", yes)
        Secret.objects.delete(name, allow_missing=allow_missing, environment_name=env)
        say(f"✓ secret {name} is deleted")


@secrets.command("rotate-key")
def rotate_key() -> None:
    """Encrypt every secret with a new key."""
    from squall.cli.ui.existing_server import ask, plain_errors, say
    from squall.wire.state import Count, RotateKey

    with plain_errors():
        answer = ask(RotateKey())
        assert isinstance(answer, Count)
        say(f"✓ {answer.count} secrets are encrypted with a new key; the old one is gone")


def _put(name: str, values: dict[str, str], env: str | None, mode: int, drop: tuple[str, ...] = ()) -> list[str]:
    from squall.sdk.client.client import Client
    from squall.sdk.client.settings import environment_of
    from squall.wire.state import Opened, PutSecret

    answer = Client.default().request(PutSecret(values, name, environment_of(env), mode, drop))
    assert isinstance(answer, Opened)
    return sorted(answer.keys)


def _values(pairs: list[str] | None, from_dotenv: Path | None, from_json: Path | None) -> dict[str, str]:
    import json

    from squall.sdk.storage.dotenv import parse
    from squall.sdk.storage.secret import check_variables

    values: dict[str, str] = {}
    if from_dotenv is not None:
        values.update(parse(_read(from_dotenv), str(from_dotenv)))
    if from_json is not None:
        try:
            loaded = json.loads(_read(from_json))
        except ValueError as error:
            raise InvalidError(f"{from_json} is no JSON: {error}") from None
        values.update(check_variables(str(from_json), loaded))
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        check_variables("the command line", {key: ""})
        values[key] = value if equals and value != "-" else sys.stdin.read().removesuffix("\n") if equals else _prompt(key)
    if not values:
        raise InvalidError("give it variables: KEY asks for the value, --from-dotenv FILE and --from-json FILE read a file")
    return check_variables("the values", values)


def _read(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.read()
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidError(f"{path}: {error.strerror if isinstance(error, OSError) else 'not a text file'}") from None


def _prompt(key: str) -> str:
    if not sys.stdin.isatty():
        raise InvalidError(f"there is no terminal to ask for {key}; write {key}=- to read it from stdin, or use --from-dotenv")
    import getpass

    return getpass.getpass(f"{key}: ")
