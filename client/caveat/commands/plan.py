"""`caveat plan`: what the examples can settle, before the model runs."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands.options import PATH


@click.command(short_help="Say which tolerances the examples can settle, before the model runs.")
@click.argument("audit", type=PATH)
@click.option("--report", type=PATH, help="Take the widths of intervals from this report (--json) of the same audit.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def plan(audit: Path, report: Path | None, form: str) -> None:
    """Say what the gate of the file AUDIT can settle with the examples it names, and how many each line needs.

    Counts the examples, and calculates for each line the smallest tolerance that nine of ten audits settle and the
    smallest effect that they find. The model is not run. The exit code is 0 also where a tolerance is out of reach.
    """
    from caveat.plan import plan_audit
    from caveat.terminal import show_plan

    show_plan(plan_audit(audit, report), as_json=form == "json")
