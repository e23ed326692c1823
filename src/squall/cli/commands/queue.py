"""`squall queue`: what named queues hold."""

from typing import Annotated

import typer

from squall.cli.commands.named_objects import AllowMissing, AsJson, Env, Yes, confirm, group, listed

queues = group("Queues: first in, first out, shared by containers.")
Name = Annotated[str, typer.Argument(metavar="NAME")]
Partition = Annotated[str | None, typer.Option("--partition", "-p", metavar="NAME", help="Default: the partition without a name.")]


@queues.command("create")
def create(name: Name, env: Env = None) -> None:
    """Create a queue."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.queue import Queue

    with plain_errors():
        Queue.objects.create(name, environment_name=env)
        say(f'✓ queue {name} is there; use it with  squall.Queue.from_name("{name}")')


@queues.command("list")
def list_(env: Env = None, as_json: AsJson = False) -> None:
    """Named queues; items of all partitions together."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, age, short_id, show

    columns = (Column("NAME", ("name",)), Column("ITEMS", ("items",)), Column("AGE", ("created_at",), age), Column("ID", ("id",), short_id))
    with plain_errors():
        show(listed("queue", env), columns, as_json=as_json, empty="no queues yet; make the first one with  squall queue create NAME")


@queues.command("len")
def len_(
    name: Name, partition: Partition = None, total: Annotated[bool, typer.Option("--total", "-t", help="All partitions.")] = False, env: Env = None
) -> None:
    """How many items wait."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.sdk.storage.queue import Queue

    with plain_errors():
        print(Queue.from_name(name, environment_name=env).len(partition=partition, total=total))


@queues.command("peek")
def peek(name: Name, n: Annotated[int, typer.Argument(metavar="[N]", min=1)] = 1, partition: Partition = None, env: Env = None) -> None:
    """Print the next items without taking them, one a line."""
    from itertools import islice

    from squall.cli.ui.existing_server import plain_errors
    from squall.sdk.storage.queue import Queue

    with plain_errors():
        for item in islice(Queue.from_name(name, environment_name=env).iterate(partition=partition), n):
            print(item)


@queues.command("clear")
def clear(
    name: Name,
    partition: Partition = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Every partition.")] = False,
    env: Env = None,
    yes: Yes = False,
) -> None:
    """Drop what waits."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.queue import Queue

    with plain_errors():
        confirm(f"Drop {'all items' if all_ else 'the items of ' + (partition or 'the default partition')} of the queue {name}?", yes)
        Queue.from_name(name, environment_name=env).clear(partition=partition, all=all_)
        say(f"✓ queue {name} is cleared")


@queues.command("delete")
def delete(name: Name, env: Env = None, allow_missing: AllowMissing = False, yes: Yes = False) -> None:
    """Delete a queue with all items."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.queue import Queue

    with plain_errors():
        confirm(f"Delete the queue {name}?", yes)
        Queue.objects.delete(name, allow_missing=allow_missing, environment_name=env)
        say(f"✓ queue {name} is deleted")
