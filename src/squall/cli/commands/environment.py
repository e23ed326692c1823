"""`squall environment`: spaces of names."""

from typing import Annotated

import typer

from squall.cli.commands.named_objects import AsJson, Yes, confirm, group

environments = group("Environments: separate spaces of names for apps, secrets, volumes, dicts and queues.")
Name = Annotated[str, typer.Argument(metavar="NAME")]


@environments.command("create")
def create(name: Name) -> None:
    """Create an environment."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.environment import Environment

    with plain_errors():
        Environment.objects.create(name)
        say(f"✓ environment {name} is there; use it with  --env {name}  or  SQUALL_ENVIRONMENT={name}")


@environments.command("list")
def list_(as_json: AsJson = False) -> None:
    """All environments."""
    from squall.cli.ui.existing_server import plain_errors, rows
    from squall.cli.ui.listing import Column, age, show
    from squall.wire.state import ListObjects

    with plain_errors():
        show(
            rows(ListObjects("environment")),
            (Column("NAME", ("name",)), Column("AGE", ("created_at",), age)),
            as_json=as_json,
            empty="no server, no environments",
        )


@environments.command("delete")
def delete(name: Name, yes: Yes = False) -> None:
    """Delete an environment with all secrets, volumes, dicts and queues in it."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.environment import Environment

    with plain_errors():
        confirm(f"Delete the environment {name} with everything in it?", yes)
        Environment.objects.delete(name)
        say(f"✓ environment {name} is deleted")
