"""`caveat init`: a first audit file for a model."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands import options
from caveat.commands.options import PATH


@click.command(short_help="Write a first audit file for a model.")
@click.argument("model", type=PATH)
@click.option("--write", "-o", type=PATH, default=Path("audit.yaml"), show_default=True, help="Output file.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@options.server
def init(model: Path, write: Path, force: bool, local: bool, url: str | None, key: str | None) -> None:
    """Write a first audit file for MODEL, with the example data found in its folder.

    Drafts concepts, matched pairs, groups and a gate, and runs the draft with few resamples before it is written: on
    the service at --url, or without one on this machine. If the data do not make an audit, says what to put where,
    writes nothing, and exits with 2.
    """
    from caveat.scaffold import write_first_audit

    write_first_audit(model, write, force, None if local else url, key)
