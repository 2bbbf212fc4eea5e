"""`caveat layers`: what of a model can be audited."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands import options
from caveat.commands.options import PATH


@click.command(short_help="List the layers of a model that can be audited.")
@click.argument("model", type=PATH)
@options.server
@click.option("--output", help="Output, or any tensor, that the audit is about; the first output by default.")
@click.option("--index", type=click.IntRange(min=0), help="Class of that output.")
@options.constant
@click.option("--all", "every", is_flag=True, help="Include layers that cannot be audited, with the reason.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def layers(
    model: Path,
    local: bool,
    url: str | None,
    key: str | None,
    output: str | None,
    index: int | None,
    constants: dict[str, float],
    every: bool,
    as_json: bool,
) -> None:
    """List the inputs, outputs and layers of MODEL, and which layers can be audited."""
    from caveat.inspection import inspect
    from caveat.terminal import show_inspection
    from caveat_spec.sanitize import json_text

    inspection = inspect(model, None if local else url, key, output, index, constants)
    if as_json:
        click.echo(json_text(inspection.model_dump_json(indent=2)))
    else:
        show_inspection(inspection, every=every)
