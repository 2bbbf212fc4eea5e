"""`caveat scrub`: verifies the stored files of a service."""

from __future__ import annotations

import click

from caveat.commands import options


@click.command(short_help="Verify the stored files of a service.")
@options.blobs
@options.database
def scrub(blobs_url: str, database_url: str) -> None:
    """Read every stored file and compare it with its digest.

    Workers do this too, spread over CAVEAT_SCRUB_DAYS, and it is safe to run while the service is in use. Damaged,
    unreadable and missing files are listed, and the command exits with 1: nothing uses them, and their next upload
    replaces them.
    """
    from caveat.retention import verify_blobs

    found = verify_blobs(database_url, blobs_url)
    for digest in found.damaged:
        click.echo(f"damaged     {digest}")
    for digest in found.unreadable:
        click.echo(f"unreadable  {digest}")
    for digest in found.missing:
        click.echo(f"missing     {digest}")
    click.echo(
        f"Verified {found.verified} blobs ({found.bytes:,} bytes): "
        f"{len(found.damaged)} others are damaged, {len(found.unreadable)} are unreadable, "
        f"{len(found.missing)} are missing."
    )
    if found.damaged or found.unreadable or found.missing:
        raise SystemExit(1)
