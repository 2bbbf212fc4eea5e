"""`caveat collect`: deletes stored files that nothing references."""

from __future__ import annotations

from datetime import timedelta

import click

from caveat.commands import options


@click.command(short_help="Delete stored files that nothing references.")
@options.blobs
@click.option(
    "--grace-hours",
    type=click.FloatRange(min=0),
    default=24,
    show_default=True,
    help="Delete only files that nothing has referenced for so many hours.",
)
@options.database
def collect(blobs_url: str, grace_hours: float, database_url: str) -> None:
    """Delete stored files that no upload, job or report has referenced for a while.

    Workers do this every few hours, and it is safe to run while the service is in use: referenced files are never
    deleted.
    """
    from caveat.retention import collect_garbage

    found = collect_garbage(database_url, blobs_url, timedelta(hours=grace_hours))
    click.echo(f"Deleted {found.removed} blobs, and the remains of {found.broken} interrupted uploads.")
    if found.adopted:
        click.echo(f"{found.adopted} blobs were unknown to the database; they will be deleted unless they are used.")
