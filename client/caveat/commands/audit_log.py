"""`caveat audit-log`: the audit log of a tenant, from a service."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands.options import PATH


@click.command(short_help="Fetch your audit log from a service.")
@click.option("--write", "-o", type=PATH, default=Path("audit-log.jsonl"), show_default=True, help="Output file.")
@click.option("--url", envvar="CAVEAT_URL", show_envvar=True, help="URL of the service.")
@click.option("--key", envvar="CAVEAT_KEY", show_envvar=True, help="Bearer key with the scope `admin`.")
def audit_log(write: Path, url: str | None, key: str | None) -> None:
    """Fetch your tenant's audit log from a service: requests, reports and verdicts, and who made them.

    Keep a copy: `caveat verify --audit-log NEW --earlier OLD` proves that the entries of OLD were not rewritten.
    """
    from caveat.audit_log import fetch

    account = fetch(url, key, write)
    signed = "the end is signed" if account.head else "the end is not signed, because the service has no key"
    click.echo(f"Wrote {write}: {account.length} entries; {signed}.")
