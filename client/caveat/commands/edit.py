"""`caveat edit`: takes a concept out of a model, and audits it before and after."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands.options import PATH


@click.command(short_help="Take a concept out of a model, and audit it before and after.")
@click.argument("audit", type=PATH)
@click.option("--layer", metavar="TENSOR[@mean]", required=True, help="Layer to edit; with `@mean` at each position.")
@click.option("--concept", "concepts", multiple=True, help="Concept of the audit to scale; repeatable.")
@click.option("--channel", "channels", type=click.IntRange(min=0), multiple=True, help="Channel to scale; repeatable.")
@click.option(
    "--scale",
    type=float,
    default=0.0,
    show_default=True,
    help="Factor: 0 takes the concept's part out, 1 leaves the file's bytes as they are.",
)
@click.option(
    "--together",
    metavar="SIGN",
    help="Keep examples whose names agree up to the last SIGN in one half, such as crops of one photograph.",
)
@click.option("--write", "-o", type=PATH, default=Path("edited.onnx"), show_default=True, help="Output file.")
@click.option("--reports", type=PATH, help="Write both reports, as JSON and HTML, into this folder.")
@click.option(
    "--sign-key",
    envvar="CAVEAT_SIGNING_KEY",
    show_envvar=True,
    help="With --reports: Ed25519 key to sign both reports (PEM text, file or folder).",
)
def edit(
    audit: Path,
    layer: str,
    concepts: tuple[str, ...],
    channels: tuple[int, ...],
    scale: float,
    together: str | None,
    write: Path,
    reports: Path | None,
    sign_key: str | None,
) -> None:
    """Scale a concept's direction in the model of the file AUDIT, and audit the model before and after.

    Inserts a few standard operators behind the layer and leaves the rest of the file as it is. The direction is found
    in the first half of the examples; both audits are made on the second, so that they do not see what the edit was
    fitted to. An edit that takes out what an audit looks at can hide the reliance from it: read what else moved.

    Exit codes: those of `caveat gate`, for the edited model.
    """
    from caveat.auditfile import read_audit
    from caveat.editing import Change
    from caveat.gate import exit_code, signers_of
    from caveat.repair import repair, write_reports
    from caveat.terminal import show_repair

    keys = signers_of(sign_key, None) if sign_key and reports is not None else []
    change = Change(layer, concepts, channels, scale, together)
    repaired = repair(read_audit(audit), change, write, keys=keys)
    show_repair(repaired.file, repaired.before.report, repaired.after.report)
    if reports is not None:
        write_reports(repaired, reports, signed=bool(keys))
    click.get_current_context().exit(exit_code(repaired.after.report))
