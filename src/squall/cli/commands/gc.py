"""`squall gc`: remove what nothing refers to any more."""

from typing import Annotated

import typer

from squall.cli.commands.named_objects import AsJson, size


def gc(dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False, as_json: AsJson = False) -> None:
    """Remove blobs and secrets of apps that have ended; the server does so by itself every hour."""
    from squall.cli.ui.existing_server import plain_errors, rows, say
    from squall.cli.ui.listing import Column, age, short_id, show
    from squall.wire.state import Collect

    columns = (Column("WHAT", ("kind",)), Column("ID", ("id",), short_id), Column("SIZE", ("size_bytes",), size), Column("AGE", ("created_at",), age))
    with plain_errors():
        found = rows(Collect(dry_run))
        show(found, columns, as_json=as_json, empty="nothing to remove")
        if found and not as_json:
            say(f"{'• would remove' if dry_run else '✓ removed'} {size(sum(row['size_bytes'] for row in found))}")
