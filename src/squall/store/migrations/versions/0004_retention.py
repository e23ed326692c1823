"""Indexes by which old rows are found and deleted, and ids that can be looked up by their beginning on PostgreSQL whatever the language of its database."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_INDEXES = (
    ("ix_inputs_expired", "inputs", "expires_at", "expires_at IS NOT NULL AND state = 'expired'"),
    ("ix_containers_stopped", "containers", "stopped_at", "state = 'stopped'"),
    ("ix_apps_stopped", "apps", "stopped_at", "state = 'stopped'"),
)


def upgrade() -> None:
    for name, table, column, condition in _INDEXES:
        op.create_index(name, table, [column], unique=False, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))
    if op.get_bind().dialect.name == "postgresql":
        for table, column in (("apps", "id"), ("containers", "id"), ("inputs", "call")):
            op.execute(f'ALTER TABLE {table} ALTER COLUMN {column} TYPE VARCHAR COLLATE "C"')
