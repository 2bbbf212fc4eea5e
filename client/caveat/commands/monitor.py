"""`caveat monitor`: a model that also gives each example's concept scores."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands.options import PATH


@click.command(short_help="Write a model that also gives each example's concept scores.")
@click.argument("audit", type=PATH)
@click.option("--write", "-o", type=PATH, default=Path("monitored.onnx"), show_default=True, help="Output file.")
@click.option("--scores-only", is_flag=True, help="No sensitivities, which cost a backward pass to each layer.")
def monitor(audit: Path, write: Path, scores_only: bool) -> None:
    """Write the model of the file AUDIT with its concepts as further outputs, for any ONNX Runtime.

    For each example it gives the model's own outputs, `concept/CONCEPT/LAYER`, a score in standard deviations of the
    audit's target examples, and `sensitivity/CONCEPT/TARGET/LAYER`, the change of the target by the concept's whole
    step. It is written only if its numbers at the target examples are the audit's own.
    """
    from caveat.auditfile import read_audit
    from caveat.repair import monitor as write_monitor
    from caveat.terminal import show_monitor

    show_monitor(write_monitor(read_audit(audit), write, scores_only=scores_only))
