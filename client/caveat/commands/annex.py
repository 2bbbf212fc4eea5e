"""`caveat annex`: published forms, filled from a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caveat.commands.options import PATH
from caveat_spec.annexes import ANNEXES

KINDS_OF_ANNEX = "; ".join(f"{row.kind}: {row.words}" for row in ANNEXES)


@click.command(short_help="Fill a published form from a report.")
@click.argument("report", type=PATH)
@click.option(
    "--kind",
    type=click.Choice([row.kind for row in ANNEXES]),
    required=True,
    help=f"Form to fill. {KINDS_OF_ANNEX}.",
)
@click.option("--filing", type=PATH, help="YAML file with what you state beside the report.")
@click.option("--attestation", type=PATH, help="Attestation of the report, for date and signature; needs --key.")
@click.option("--key", "keys", type=PATH, multiple=True, help="Public key (PEM file, or a folder of them); repeatable.")
@click.option("--html", "html_", type=PATH, help="Write the annex as an HTML page, which prints with a cover.")
@click.option("--csv", "csv_", type=PATH, help="Write the annex as CSV, one row for each value.")
def annex(
    report: Path,
    kind: Any,
    filing: Path | None,
    attestation: Path | None,
    keys: tuple[Path, ...],
    html_: Path | None,
    csv_: Path | None,
) -> None:
    """Fill a published form from the file REPORT, which `caveat gate --json` wrote.

    Each field names its source: the report, its attestation, or you (--filing). A field that none of them fills says
    that it is not recorded, and what would fill it. Prints those.
    """
    if (attestation is None) != (not keys):
        raise click.UsageError("--attestation and --key go together: a date counts only with a valid signature.")
    from caveat.annex import fill_annex, write_annex
    from caveat.terminal import show_annex

    filled = fill_annex(kind, report, filing, attestation, keys)
    write_annex(filled, {name: path for name, path in (("html", html_), ("csv", csv_)) if path is not None})
    show_annex(filled)
