"""`caveat visualise`: pictures of what a layer looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caveat.commands.options import PATH


@click.command(short_help="Make pictures of what a layer looks for, beside examples that have most of it.")
@click.argument("audit", type=PATH)
@click.option("--layer", default="auto", show_default=True, help="Tensor; `auto` is the deepest layer of the audit.")
@click.option("--channel", "channels", type=click.IntRange(min=0), multiple=True, help="Channel by number; repeatable.")
@click.option("--concept", "concepts", multiple=True, help="Concept of the audit; repeatable.")
@click.option("--like", multiple=True, help="Example whose strongest place is to be had everywhere; repeatable.")
@click.option("--set", "examples", help="Example set to compare with; the first target's by default.")
@click.option("--centre", is_flag=True, help="Raise the middle of the layer alone, not the mean over its positions.")
@click.option("--steps", type=click.IntRange(16, 4096), default=256, show_default=True, help="Steps to each picture.")
@click.option(
    "--side",
    type=click.IntRange(16, 1024),
    default=128,
    show_default=True,
    help="Pixels on the longer side at most, where the model takes other sizes than its own.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the noise at the start.")
@click.option("--write", "-o", type=PATH, default=Path("visualised"), show_default=True, help="Output folder.")
@click.option(
    "--sign-key",
    envvar="CAVEAT_SIGNING_KEY",
    show_envvar=True,
    help="Ed25519 key (PEM text, file or folder): also write `visualised.dsse.json`, for `caveat verify`.",
)
def visualise(write: Path, sign_key: str | None, audit: Path, **wanted: Any) -> None:
    """Make pictures that atoms of a layer respond to most, for the model of the file AUDIT.

    Writes each as PNG, `visualised.json` with their digests and how strongly each atom responds, and a page,
    `index.html`, that shows them beside examples of a set. A picture to which the response is lower than to an example
    is not shown. The pictures are in no report: their pixels depend on the processor. A signed statement beside them
    says of which model they are, how they were made, and which bytes each file has.
    """
    from datetime import UTC, datetime

    from caveat.attestation import signers
    from caveat.auditfile import read_audit
    from caveat.terminal import progress, show_pictures
    from caveat.visualising import require_room, sign_pictures, write_pictures
    from caveat.visualising import visualise as make

    keys, started = signers(sign_key) if sign_key else [], datetime.now(UTC).replace(microsecond=0)
    if keys:
        require_room(write)
    with progress() as on_progress:
        made = make(read_audit(audit), wanted, on_progress)
    written = write_pictures(made, write)
    signed = [sign_pictures(written, started, keys)] if keys else []
    show_pictures(made, [*written, *signed])
