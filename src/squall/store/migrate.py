"""Runs the revisions in `migrations/` over an open connection."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util.exc import CommandError
from sqlalchemy import Connection

from squall.store.tables import SCHEMA_VERSION


def config() -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    settings.set_main_option("path_separator", "os")
    return settings


def upgrade(connection: Connection) -> bool:
    """Bring the schema to `SCHEMA_VERSION` within the connection's transaction. False: it has a version that no revision here names; nothing was changed."""
    settings = config()
    settings.attributes["connection"] = connection
    try:
        command.upgrade(settings, SCHEMA_VERSION)
    except (CommandError, ResolutionError):
        return False
    return True


def newest() -> str | None:
    """The newest revision's name."""
    return ScriptDirectory.from_config(config()).get_current_head()
