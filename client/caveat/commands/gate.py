"""`caveat gate`: runs an audit and decides its gate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from caveat.commands import options
from caveat.commands.options import PATH
from caveat.trackers import TRACKERS


@click.command(short_help="Run an audit and decide its gate.")
@click.argument("audit", type=PATH, required=False)
@options.server
@click.option("--report", type=PATH, help="Decide the gate of this existing report instead of running an audit.")
@click.option("--policy", type=PATH, help="With --report: a YAML file with another `gate`.")
@click.option(
    "--baseline",
    type=PATH,
    help="Compare with an earlier report (--json), or with `last`: the newest passing report on the service for the "
    "same question.",
)
@click.option(
    "--remote-fetch",
    is_flag=True,
    help="Let the service fetch the audit's URLs, which its operator has to allow; by default this machine does.",
)
@options.outputs
@options.maps
@click.option("--attestation", type=PATH, help="Write a signed attestation, for `caveat verify`.")
@click.option(
    "--sign-key",
    envvar="CAVEAT_SIGNING_KEY",
    show_envvar=True,
    help="Ed25519 key for the attestation (PEM text, file or folder); without it the service signs.",
)
@click.option(
    "--sigstore",
    is_flag=True,
    help="Sign the report of --json by Sigstore, as the identity of the CI job and without a key: "
    "REPORT.sigstore.json is written beside it.",
)
@click.option(
    "--identity-token",
    envvar="SIGSTORE_IDENTITY_TOKEN",
    show_envvar=True,
    help="With --sigstore: the identity to sign as (OIDC token, or a file with one) instead of the CI job's.",
)
@options.trust_config
@click.option(
    "--inconclusive",
    type=click.Choice(["pass", "fail", "4"]),
    default="4",
    show_default=True,
    help="Exit code of an inconclusive gate: that of a pass, that of a failure, or 4.",
)
@click.option(
    "--log-to",
    "trackers",
    type=click.Choice(list(TRACKERS)),
    multiple=True,
    help="Log verdict, figures and files to this experiment tracker; repeatable.",
)
def gate(
    audit: Path | None,
    local: bool,
    url: str | None,
    key: str | None,
    report: Path | None,
    policy: Path | None,
    baseline: Path | None,
    remote_fetch: bool,
    maps: Path | None,
    attestation: Path | None,
    sign_key: str | None,
    sigstore: bool,
    identity_token: str | None,
    trust_config: Path | None,
    inconclusive: Any,
    trackers: tuple[str, ...],
    **wanted: Path | None,
) -> None:
    """Run the audit in the file AUDIT (YAML or JSON) and decide its gate.

    The audit runs on the service at --url, or without one in a sandboxed process on this machine. The report is the
    same.

    Exit codes: 0 the gate passes, 1 it fails, 2 the audit is invalid, 3 the infrastructure failed, 4 the evidence is
    inconclusive.
    """
    again = report is not None
    for wrong, sentence in (
        ((audit is not None) == again, "Pass either an audit file, or --report with an existing report."),
        (policy is not None and not again, "--policy needs --report; an audit file has its own gate."),
        (maps is not None and again, "--maps needs an audit that runs now; a service has those of earlier ones."),
        (
            attestation is not None and again,
            "--attestation needs an audit that runs now: the origin of an existing report is unknown.",
        ),
        (
            sigstore and (again or wanted["json_"] is None),
            "--sigstore signs the report of an audit that runs now, and needs --json to write it.",
        ),
        (trust_config is not None and not sigstore, "--trust-config needs --sigstore."),
    ):
        if wrong:
            raise click.UsageError(sentence)
    if trackers:
        from caveat.trackers.log_report import require_tracker

        for name in trackers:
            require_tracker(name)
    if report is None:
        options.start_engine(local, url)
    sign = None
    if sigstore:
        from caveat.keyless import signer

        sign = signer(identity_token, trust_config)
    from caveat.gate import finish, gate_audit, gate_report

    if report is not None:
        decided = gate_report(report, policy, baseline=baseline)
    elif audit is not None:
        server, attested = None if local else url, attestation is not None
        decided = gate_audit(
            audit,
            server,
            key,
            baseline=baseline,
            sign_key=sign_key,
            attested=attested,
            remote_fetch=remote_fetch,
            maps=maps,
        )
    paths = options.paths(wanted)
    click.get_current_context().exit(finish(decided, paths, attestation, inconclusive, trackers, maps, sign))
