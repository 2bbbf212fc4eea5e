"""`caveat view`: reports as pages in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands.options import PATH


@click.command(short_help="Show reports as pages in a browser.")
@click.argument("reports", type=PATH, nargs=-1, required=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="Port on this machine; 0 for any free port.",
)
def view(reports: tuple[Path, ...], port: int) -> None:
    """Show the files REPORTS, which `caveat gate --json` wrote, as the console's pages. Ctrl-C stops it.

    The pages are a list, each report, how its figures went from the first file to the last, and any two side by side.
    """
    from caveat.view import read, server

    with server(read(reports), port) as pages:
        click.echo(f"Showing {len(reports)} reports at http://127.0.0.1:{pages.server_port}/ until Ctrl-C.")
        try:
            pages.serve_forever()
        except KeyboardInterrupt:
            click.echo("Stopped.")
