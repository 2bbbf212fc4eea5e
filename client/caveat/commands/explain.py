"""`caveat explain`: where in single examples a score comes from."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands import options
from caveat.commands.options import PATH


@click.command(short_help="Show where in single examples a score comes from, without a gate.")
@click.argument("audit", type=PATH)
@options.server
@options.outputs
@options.maps
def explain(
    audit: Path, local: bool, url: str | None, key: str | None, maps: Path | None, **wanted: Path | None
) -> None:
    """Run what the file AUDIT asks in `explain`, and nothing else of it.

    Shows the strongest findings in words; --html writes the page with the maps. An explanation decides nothing, so the
    exit code is 0 once it has run, 2 where it cannot run, and 3 where the infrastructure failed.
    """
    options.start_engine(local, url)
    from caveat.gate import explain_audit

    paths = options.paths(wanted)
    explain_audit(audit, None if local else url, key, paths, maps)
