"""`squall config | profile | setup`, and what tells which server is used and with which token."""

import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from squall.model.errors import InvalidError, NotFoundError

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
config = typer.Typer(help="Settings: where they come from, the default environment.", no_args_is_help=True)
profiles = typer.Typer(help="Profiles: sections of the settings' file, each with its default environment.", no_args_is_help=True)


def register(app: typer.Typer, tokens: typer.Typer) -> None:
    """Put the commands where they belong."""
    app.add_typer(config, name="config")
    app.add_typer(profiles, name="profile")
    app.command("setup", hidden=True)(setup)
    tokens.command("info")(token_info)
    for word in ("set", "new", "rotate"):
        tokens.command(word, hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(_no_accounts(word))


@config.command("show")
def show(
    redact: Annotated[bool, typer.Option("--redact/--no-redact", help="Without the token, or with it.")] = True,
    as_json: AsJson = False,
) -> None:
    """The settings that hold here."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import show_one

    with plain_errors():
        show_one(settings(redact=redact), as_json=as_json)


def settings(*, redact: bool = True) -> dict[str, Any]:
    """What commands go by."""
    from squall.sdk.client.client import Client
    from squall.sdk.client.settings import environment_of, settings_file
    from squall.wire.address import data_directory

    token = os.environ.get("SQUALL_TOKEN") or None
    client = Client.default()
    return {
        "profile": active(), "environment": environment_of(None, "main"), "server_url": client.server_url,
        "data_directory": str(data_directory()) if client.embedded else None, "token": "***" if token and redact else token,
        "settings_file": str(settings_file()),
    }  # fmt: skip


def active() -> str:
    """The profile that is used."""
    from squall.sdk.client import settings as file

    return os.environ.get("MODAL_PROFILE") or next((name for name, section in file.profiles().items() if section.get("active")), "default")


@config.command("set-environment")
def set_environment(name: Annotated[str, typer.Argument(metavar="ENVIRONMENT")]) -> None:
    """Make it the default environment of the active profile."""
    from squall.cli.ui.existing_server import plain_errors, rows, say
    from squall.sdk.client import settings as file
    from squall.wire.state import ListObjects

    with plain_errors():
        known = rows(ListObjects("environment"))
        if known and name not in {row["name"] for row in known}:
            raise NotFoundError(f"there is no environment {name!r}; squall environment list shows what there is")
        sections = file.profiles()
        sections.setdefault(active(), {})["environment"] = name
        _write(sections)
        say(f"✓ commands of the profile {active()} use the environment {name}")


@config.command("set", hidden=True)
def set_(key: Annotated[str, typer.Argument(metavar="KEY")], value: Annotated[str, typer.Argument(metavar="VALUE")]) -> None:
    """As set-environment, for the key environment."""
    from squall.cli.ui.refusals import refuse

    if key != "environment":
        refuse(f"squall config set {key}", "only environment is kept in the file; SQUALL_SERVER_URL, SQUALL_TOKEN and SQUALL_DATA_DIR are variables")
    set_environment(value)


@profiles.command("current")
def profile_current() -> None:
    """The profile that is used."""
    from squall.cli.ui.existing_server import plain_errors

    with plain_errors():
        typer.echo(active())


@profiles.command("list")
def profile_list(as_json: AsJson = False) -> None:
    """All profiles."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, show
    from squall.sdk.client import settings as file

    with plain_errors():
        sections = file.profiles()
        used = active()
        names = dict.fromkeys([*sections, used])
        found = [{"name": name, "active": name == used, "environment": sections.get(name, {}).get("environment")} for name in names]
        columns = (Column("PROFILE", ("name",)), Column("ACTIVE", ("active",), lambda on: "yes" if on else "-"), Column("ENVIRONMENT", ("environment",)))
        show(found, columns, as_json=as_json, empty="no profiles")


@profiles.command("activate")
def profile_activate(name: Annotated[str, typer.Argument(metavar="PROFILE")]) -> None:
    """Use another profile from now on."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.client import settings as file

    with plain_errors():
        sections = file.profiles()
        check_profile(name, sections)
        for other, section in sections.items():
            section.pop("active", None)
            if other == name:
                section["active"] = True
        _write(sections)
        say(f"✓ {name} is the active profile")


def check_profile(name: str, sections: Mapping[str, Any]) -> None:
    """
    Raises:
        NotFoundError: there is no such profile.
    """
    if name not in sections:
        from squall.sdk.client.settings import settings_file

        raise NotFoundError(f"{settings_file()} has no profile {name!r}; it has {', '.join(sections) or 'none'}")


def _write(sections: dict[str, dict[str, Any]]) -> None:
    """Replace the settings' file, for this user's eyes only: Modal keeps tokens in it.

    Raises:
        InvalidError: it has what can't be written back.
    """
    from squall.sdk.client.settings import settings_file

    path = settings_file()
    lines = []
    for name, section in sections.items():
        lines.append(f"[{_quoted(name)}]")
        for key, value in section.items():
            if not isinstance(value, str | bool | int | float):
                raise InvalidError(f"{path} has a setting {name}.{key} that is no plain value; change the file by hand")
            lines.append(f"{_quoted(key)} = {_quoted(value) if isinstance(value, str) else str(value).lower()}")
        lines.append("")
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    draft.replace(path)


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are among its own, but for DEL."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def token_info() -> None:
    """Which server commands go to, and whether with a token."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import show_one

    with plain_errors():
        found = settings()
        token = "none: the owner of the server's socket needs none" if found["token"] is None else "that of SQUALL_TOKEN"
        show_one({"server": found["server_url"], "token": token, "environment": found["environment"]}, as_json=False)


def _no_accounts(word: str) -> Any:
    def command(context: typer.Context) -> None:
        from squall.cli.ui.refusals import refuse

        refuse(
            f"squall token {word}",
            "there are no accounts; a server of this machine needs no token, for another one set SQUALL_SERVER_URL and SQUALL_TOKEN to what"
            " squall server token prints there. squall token create makes tokens for HTTP",
        )

    command.__doc__ = "There are no accounts."
    return command


def setup() -> None:
    """Whether there is a server to use; one of this machine is started."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.client.client import Client
    from squall.wire.messages import ServerStatus

    with plain_errors():
        Client.default().request(ServerStatus())
        Client.default().close_idle()
        say(f"✓ nothing is to be set up: commands go to {Client.default().server_url}; squall doctor says what this machine can do")
