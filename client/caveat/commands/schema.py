"""`caveat schema`: the JSON Schema of an audit file."""

from __future__ import annotations

import click


@click.command(short_help="Print the JSON Schema of an audit file.")
def schema() -> None:
    """Print the JSON Schema of an audit file, which editors use for validation and completion."""
    from caveat.schema import audit_schema

    click.echo(audit_schema())
