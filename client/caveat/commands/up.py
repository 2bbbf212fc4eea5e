"""`caveat up`: the whole service on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands.options import PATH


@click.command(short_help="Run the whole service on this machine.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for any free port.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--data", type=PATH, default=Path(".caveat"), show_default=True, help="Folder for all data.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of audits that run at the same time.",
)
def up(port: int, host: str, data: Path, workers: int) -> None:
    """Run the whole service on this machine: Valkey, a worker and the API. Ctrl-C stops it."""
    from caveat.installation import require_linux

    require_linux("`caveat up`")
    from caveat.up import run_up

    click.get_current_context().exit(run_up(host, port, data, workers))
