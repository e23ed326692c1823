"""What Alembic runs around the revisions: they use the connection, and the transaction, of `store.migrate`."""

from alembic import context

from squall.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
