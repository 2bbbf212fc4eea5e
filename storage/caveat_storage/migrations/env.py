"""Runs the migrations on the connection that `caveat_storage.job_records.migrate` opened."""

from alembic import context

from caveat_storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
