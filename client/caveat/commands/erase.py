"""`caveat erase`: erases a tenant's data."""

from __future__ import annotations

from datetime import timedelta

import click

from caveat.commands import options


@click.command(short_help="Erase a tenant's data.")
@click.option("--tenant", required=True, help="Tenant whose data are erased.")
@click.option(
    "--older-than-days",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Erase only data older than this; all by default.",
)
@options.database
def erase(tenant: str, older_than_days: float, database_url: str) -> None:
    """Erase a tenant's finished jobs, reports, studies, their details in the audit log, and its uploads.

    Without --older-than-days, webhooks and their pending deliveries are erased too. The audit log keeps an entry for
    each request, without its details, and records what was erased and by whom. The uploaded bytes are deleted by
    `caveat collect`, or by a worker within about a day. Keys and their log entries remain; revoke them separately.
    """
    from caveat.retention import erase_tenant

    gone = erase_tenant(database_url, tenant, timedelta(days=older_than_days))
    click.echo(
        f"Erased {gone.jobs} jobs, {gone.studies} studies and {gone.webhooks} webhooks; {gone.blobs} uploads no longer "
        "belong to the tenant."
    )
    if gone.left:
        click.echo(f"{gone.left} jobs are unfinished and were kept; cancel them, then erase again.", err=True)
