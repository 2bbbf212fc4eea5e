"""`caveat keys`: bearer keys in the database of a service."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import click

from caveat.commands import options
from caveat.commands.group import Commands

DAYS = click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), help="Days until the key expires; never by default."
)


@click.group(cls=Commands, short_help="Create, list, revoke and rotate bearer keys.")
def keys() -> None:
    """Create, list, revoke and rotate the bearer keys in a service's database.

    A key belongs to a tenant and has scopes: `submit` (upload and start audits), `read` (see results), and `admin`
    (both, and audit log and webhooks).
    """


@keys.command("create")
@click.option("--tenant", required=True, help="Tenant of the key: letters, digits, `_`, `.` and `-`.")
@click.option("--name", default="key", show_default=True, help="Name that tells what the key is for, such as `ci`.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["submit", "read", "admin"]),
    multiple=True,
    default=("submit", "read"),
    show_default=True,
    help="Scope of the key; repeatable.",
)
@DAYS
@options.database
def create_key(tenant: str, name: str, scopes: Any, days: float | None, database_url: str) -> None:
    """Create a key and print it. It cannot be shown again."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", tenant) is None or not 1 <= len(name) <= 64:
        raise click.UsageError("A tenant is up to 64 letters, digits, `_`, `.` and `-`; a name up to 64 characters.")
    from caveat.keys import create

    click.echo(create(database_url, tenant, name, scopes, _days(days)))


@keys.command("list")
@click.option("--tenant", help="List only the keys of this tenant.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options.database
def list_keys(tenant: str | None, as_json: bool, database_url: str) -> None:
    """List all keys, without their secrets."""
    from caveat.keys import issued
    from caveat.terminal import show_keys

    show_keys(issued(database_url, tenant), as_json=as_json)


@keys.command("revoke")
@click.argument("key")
@options.database
def revoke_key(key: str, database_url: str) -> None:
    """Revoke KEY (the key or its id) at once."""
    from caveat.keys import revoke

    revoke(database_url, key)
    click.echo("The key is revoked; requests with it are refused from now on.")


@keys.command("rotate")
@click.argument("key")
@click.option(
    "--overlap-hours",
    type=click.FloatRange(min=0),
    default=24,
    show_default=True,
    help="Hours for which the old key remains valid.",
)
@DAYS
@options.database
def rotate_key(key: str, overlap_hours: float, days: float | None, database_url: str) -> None:
    """Replace KEY (the key or its id) by a new key with the same tenant, name and scopes, and print it."""
    from caveat.keys import rotate

    click.echo(rotate(database_url, key, timedelta(hours=overlap_hours), _days(days)))


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)
