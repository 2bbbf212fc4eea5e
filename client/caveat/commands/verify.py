"""`caveat verify`: attestations, keyless signatures and audit logs."""

from __future__ import annotations

from pathlib import Path

import click

from caveat.commands import options
from caveat.commands.options import PATH


def _named_paths(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """Parses `NAME=PATH` values."""
    pairs = [value.partition("=") for value in values]
    if any(not (name and path) for name, _, path in pairs):
        raise click.BadParameter("use NAME=PATH, where NAME is an example set of the audit.", param=parameter)
    return {name: Path(path) for name, _, path in pairs}


@click.command(short_help="Verify an attestation, a report's keyless signature, or an audit log.")
@click.argument("file", type=PATH, required=False)
@click.option("--key", "keys", type=PATH, multiple=True, help="Public key (PEM file, or a folder of them); repeatable.")
@click.option("--audit-log", type=PATH, help="Audit log to verify, as `caveat audit-log` wrote it.")
@click.option("--earlier", type=PATH, help="With --audit-log: an earlier copy that the log must continue.")
@click.option("--report", type=PATH, help="Report (--json) to compare with the signed one.")
@click.option("--model", type=PATH, help="Model to compare with the audited one.")
@click.option(
    "--examples",
    metavar="NAME=PATH",
    multiple=True,
    callback=_named_paths,
    help="File or folder to compare with an example set; repeatable.",
)
@click.option("--sigstore-identity", metavar="NAME", help="Who must have signed the report FILE by Sigstore.")
@click.option("--sigstore-issuer", metavar="URL", help="With --sigstore-identity: the issuer that vouches for it.")
@click.option(
    "--bundle", type=PATH, help="With --sigstore-identity: the signature, if it is not FILE.sigstore.json beside it."
)
@click.option(
    "--offline", is_flag=True, help="With --sigstore-identity: take Sigstore's keys from this machine, not its network."
)
@options.trust_config
def verify(
    file: Path | None,
    keys: tuple[Path, ...],
    audit_log: Path | None,
    earlier: Path | None,
    report: Path | None,
    model: Path | None,
    examples: dict[str, Path],
    sigstore_identity: str | None,
    sigstore_issuer: str | None,
    bundle: Path | None,
    offline: bool,
    trust_config: Path | None,
) -> None:
    """Verify a signed attestation (FILE) and the files that it names, an audit log, or both.

    With --sigstore-identity, FILE is a report that `caveat gate --sigstore` signed. An attestation of made pictures
    (`caveat visualise`) is verified with every file of its folder.

    Prints what was audited, when and where, and how the gate was decided. For an audit log, checks that no entry was
    changed, removed, inserted or moved, and that it names the attested report.

    Exit codes: 0 all checks hold, 1 a check fails, 2 a file cannot be read, 3 the network or a package is missing.
    """
    named = {"report": report, "model": model, **{f"examples/{name}": path for name, path in examples.items()}}
    files = {name: path for name, path in named.items() if path is not None}
    if sigstore_identity is not None:
        if file is None or sigstore_issuer is None:
            raise click.UsageError(
                "--sigstore-identity needs the report, and --sigstore-issuer: a name alone is no one."
            )
        if keys or audit_log is not None or report is not None:
            raise click.UsageError("--key, --report and --audit-log are of attestations; FILE is the report itself.")
        holds = _signed_report(file, bundle, sigstore_identity, sigstore_issuer, files, trust_config, offline)
    else:
        if sigstore_issuer or bundle or offline or trust_config:
            raise click.UsageError(
                "--sigstore-issuer, --bundle, --offline and --trust-config need --sigstore-identity."
            )
        if file is None and audit_log is None:
            raise click.UsageError("Pass an attestation, an audit log with --audit-log, or both.")
        if file is not None and not keys:
            raise click.UsageError(
                "--key is missing: without a public key an attestation cannot be verified. A report that was signed "
                "by Sigstore is verified with --sigstore-identity."
            )
        if file is None and files:
            raise click.UsageError("--report, --model and --examples need an attestation to compare with.")
        if earlier is not None and audit_log is None:
            raise click.UsageError("--earlier needs --audit-log.")
        holds = _attested(file, keys, files, audit_log, earlier)
    click.get_current_context().exit(0 if holds else 1)


def _signed_report(
    file: Path,
    bundle: Path | None,
    identity: str,
    issuer: str,
    files: dict[str, Path],
    trust_config: Path | None,
    offline: bool,
) -> bool:
    """Whether a report holds that was signed by Sigstore; shows each check."""
    from caveat.keyless import check
    from caveat.terminal import show_signed_report

    found = check(file, bundle, identity, issuer, files, trust_config=trust_config, offline=offline)
    show_signed_report(found)
    return found.holds


def _attested(
    file: Path | None, keys: tuple[Path, ...], files: dict[str, Path], audit_log: Path | None, earlier: Path | None
) -> bool:
    """Whether an attestation, an audit log, or both together hold; shows each check."""
    from caveat.terminal import show_checks, show_log, show_picture_checks

    holds, statement = True, None
    if file is not None:
        from caveat.attestation import check, read_bytes
        from caveat_storage.attestations import is_about_pictures

        if is_about_pictures(read_bytes(file)):
            if "report" in files or audit_log is not None:
                raise click.UsageError(f"{file} is about made pictures, which are in no report and in no audit log.")
            from caveat.picture_attestation import check_pictures

            pictures = check_pictures(file, keys, files)
            show_picture_checks(pictures.checks, pictures.statement)
            return pictures.holds
        checked = check(file, keys, files)
        show_checks(checked)
        holds, statement = checked.holds, checked.statement
    if audit_log is not None:
        from caveat.audit_log import check as check_log

        account, checks = check_log(audit_log, keys, earlier, statement)
        show_log(account, checks)
        holds &= all(one.holds is not False for one in checks)
    return holds
