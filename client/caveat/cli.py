"""The command line. Modules are imported when a command runs, so that `caveat --help` is quick."""

from __future__ import annotations

import re
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from caveat.study.command import study
from caveat.trackers import TRACKERS
from caveat_spec.annexes import ANNEXES
from caveat_spec.formats import FORMATS

PATH = click.Path(path_type=Path)


class Commands(click.Group):
    """A group of commands that prints a `ProblemError` and turns it into an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            from caveat.problems import ProblemError  # not before: a command starts the engine first of all

            if not isinstance(error, ProblemError):
                raise
            from caveat.terminal import show_problem

            show_problem(error)
            ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="caveat")
def cli() -> None:
    """Audit ONNX models: does a model rely on a concept that it must not use?

    Start with `caveat init model.onnx`, which writes an audit file, and `caveat gate audit.yaml`, which runs it.
    """


def _server(command: Any) -> Any:
    """Adds the options that choose between a service and this machine."""
    for option in (
        click.option("--key", envvar="CAVEAT_KEY", show_envvar=True, help="Bearer key for the service."),
        click.option("--url", envvar="CAVEAT_URL", show_envvar=True, help="Run on the service at this URL."),
        click.option("--local", is_flag=True, help="Run on this machine even if a URL is set."),
    ):
        command = option(command)
    return command


def _outputs(command: Any) -> Any:
    """Adds an option for each format of a report."""
    for form in reversed(FORMATS):
        text = f"Write the report as {form.words}."
        command = click.option(f"--{form.name}", f"{form.name}_", type=PATH, help=text)(command)
    return command


_trust_config = click.option(
    "--trust-config", type=PATH, help="A Sigstore of your own (ClientTrustConfig, JSON) instead of the public one."
)
_maps = click.option(
    "--maps", type=PATH, help="Write what it keeps as arrays (.npz): `keep: maps` its figures, `keep: cavs` its CAVs."
)


@cli.command(short_help="Run an audit and decide its gate.")
@click.argument("audit", type=PATH, required=False)
@_server
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
@_outputs
@_maps
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
@_trust_config
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
    if (audit is None) == (report is None):
        raise click.UsageError("Pass either an audit file, or --report with an existing report.")
    if policy is not None and report is None:
        raise click.UsageError("--policy needs --report; an audit file has its own gate.")
    if maps is not None and report is not None:
        raise click.UsageError("--maps needs an audit that runs now; a service has those of earlier ones.")
    if attestation is not None and report is not None:
        raise click.UsageError(
            "--attestation needs an audit that runs now: the origin of an existing report is unknown."
        )
    if sigstore and (report is not None or wanted["json_"] is None):
        raise click.UsageError("--sigstore signs the report of an audit that runs now, and needs --json to write it.")
    if trust_config is not None and not sigstore:
        raise click.UsageError("--trust-config needs --sigstore.")
    if trackers:
        from caveat.trackers.log_report import require_tracker

        for name in trackers:
            require_tracker(name)
    if report is None:
        _start_engine(local, url)
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
    paths = {name.removesuffix("_"): path for name, path in wanted.items() if path is not None}
    click.get_current_context().exit(finish(decided, paths, attestation, inconclusive, trackers, maps, sign))


@cli.command(short_help="Say which tolerances the examples can settle, before the model runs.")
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


@cli.command(short_help="Show where in single examples a score comes from, without a gate.")
@click.argument("audit", type=PATH)
@_server
@_outputs
@_maps
def explain(
    audit: Path, local: bool, url: str | None, key: str | None, maps: Path | None, **wanted: Path | None
) -> None:
    """Run what the file AUDIT asks in `explain`, and nothing else of it.

    Shows the strongest findings in words; --html writes the page with the maps. An explanation decides nothing, so the
    exit code is 0 once it has run, 2 where it cannot run, and 3 where the infrastructure failed.
    """
    _start_engine(local, url)
    from caveat.gate import explain_audit

    paths = {name.removesuffix("_"): path for name, path in wanted.items() if path is not None}
    explain_audit(audit, None if local else url, key, paths, maps)


def _named_numbers(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    """Parses `NAME=NUMBER` values; the number comes after the last `=`, as a name may hold one."""
    numbers = {}
    for value in values:
        name, _equals, number = value.rpartition("=")
        try:
            numbers[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise click.BadParameter(
                f"'{value}' is not NAME=NUMBER, such as sr=16000: an input of the model and the number that fills it.",
                param=parameter,
            )
    return numbers


_constant = click.option(
    "--constant",
    "constants",
    metavar="NAME=NUMBER",
    multiple=True,
    callback=_named_numbers,
    help="Input that holds one number, as under `constants:` of an audit file; repeatable.",
)


def _named_paths(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """Parses `NAME=PATH` values."""
    pairs = [value.partition("=") for value in values]
    if any(not (name and path) for name, _, path in pairs):
        raise click.BadParameter("use NAME=PATH, where NAME is an example set of the audit.", param=parameter)
    return {name: Path(path) for name, _, path in pairs}


@cli.command(short_help="Verify an attestation, a report's keyless signature, or an audit log.")
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
@_trust_config
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

    With --sigstore-identity, FILE is a report that `caveat gate --sigstore` signed.

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
        from caveat.keyless import check as check_bundle
        from caveat.terminal import show_signed_report

        found = check_bundle(
            file, bundle, sigstore_identity, sigstore_issuer, files, trust_config=trust_config, offline=offline
        )
        show_signed_report(found)
        click.get_current_context().exit(0 if found.holds else 1)
    if sigstore_issuer or bundle or offline or trust_config:
        raise click.UsageError("--sigstore-issuer, --bundle, --offline and --trust-config need --sigstore-identity.")
    if file is None and audit_log is None:
        raise click.UsageError("Pass an attestation, an audit log with --audit-log, or both.")
    if file is not None and not keys:
        raise click.UsageError(
            "--key is missing: without a public key an attestation cannot be verified. A report that was signed by "
            "Sigstore is verified with --sigstore-identity."
        )
    if file is None and files:
        raise click.UsageError("--report, --model and --examples need an attestation to compare with.")
    if earlier is not None and audit_log is None:
        raise click.UsageError("--earlier needs --audit-log.")
    from caveat.terminal import show_checks, show_log

    holds, statement = True, None
    if file is not None:
        from caveat.attestation import check

        checked = check(file, keys, files)
        show_checks(checked)
        holds, statement = checked.holds, checked.statement
    if audit_log is not None:
        from caveat.audit_log import check as check_log

        account, checks = check_log(audit_log, keys, earlier, statement)
        show_log(account, checks)
        holds &= all(one.holds is not False for one in checks)
    click.get_current_context().exit(0 if holds else 1)


@cli.command(short_help="Say what a kind of problem is about.")
@click.argument("code")
def explain_error(code: str) -> None:
    """Say what the problem CODE is about: the sentences it comes with, and what to do.

    CODE is the end of an answer's `type`, such as not-found, or the whole of it. In the sentences … stands for what is
    filled in when it happens.
    """
    from caveat.problems import problem
    from caveat_spec import problem_codes

    kind = problem_codes.kind(code)
    if kind is None:
        near = problem_codes.near(code)
        also = f"Written alike: {', '.join(near)}." if near else "Copy it from the `type` of the answer."
        raise problem("no-such-problem", 422, f"There is no kind of problem '{code}'.", also)
    statuses = ", ".join(map(str, kind.statuses))
    click.echo(f"{kind.title} (status {statuses})" if statuses else kind.title)
    for sentence, remedy in kind.said:
        click.echo(f"\n  {sentence}\n  Remedy: {remedy}")
    if not kind.said:
        click.echo("\n  Its sentence and remedy are made as it happens: read `detail` and `remedy` of the answer.")


@cli.command(short_help="Show reports as pages in a browser.")
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


cli.add_command(study)

KINDS_OF_ANNEX = "; ".join(f"{row.kind}: {row.words}" for row in ANNEXES)


@cli.command(short_help="Fill a published form from a report.")
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


@cli.command(short_help="Fetch your audit log from a service.")
@click.option("--write", "-o", type=PATH, default=Path("audit-log.jsonl"), show_default=True, help="Output file.")
@click.option("--url", envvar="CAVEAT_URL", show_envvar=True, help="URL of the service.")
@click.option("--key", envvar="CAVEAT_KEY", show_envvar=True, help="Bearer key with the scope `admin`.")
def audit_log(write: Path, url: str | None, key: str | None) -> None:
    """Fetch your tenant's audit log from a service: requests, reports and verdicts, and who made them.

    Keep a copy: `caveat verify --audit-log NEW --earlier OLD` proves that the entries of OLD were not rewritten.
    """
    from caveat.audit_log import fetch

    account = fetch(url, key, write)
    signed = "the end is signed" if account.head else "the end is not signed, because the service has no key"
    click.echo(f"Wrote {write}: {account.length} entries; {signed}.")


@cli.command(short_help="Make a key pair for attestations.")
@click.argument("name", type=PATH, default=Path("caveat"))
def keygen(name: Path) -> None:
    """Make an ed25519 key pair: NAME.key signs attestations (keep it secret), NAME.pub verifies them.

    Set $CAVEAT_SIGNING_KEY to the private key: its PEM text, a file, or a folder of keys, such as a mounted Kubernetes
    secret. To replace a key, keep both in the folder for a while: all keys in it sign.
    """
    from caveat.attestation import make_keys

    keyid = make_keys(name)
    click.echo(f"Wrote {name}.key (signs) and {name}.pub (verifies). The key id is {keyid}.")
    click.echo(f"Next: caveat gate audit.yaml --json report.json --attestation report.dsse.json --sign-key {name}.key")


@cli.command(short_help="List the layers of a model that can be audited.")
@click.argument("model", type=PATH)
@_server
@click.option("--output", help="Output, or any tensor, that the audit is about; the first output by default.")
@click.option("--index", type=click.IntRange(min=0), help="Class of that output.")
@_constant
@click.option("--all", "every", is_flag=True, help="Include layers that cannot be audited, with the reason.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def layers(
    model: Path,
    local: bool,
    url: str | None,
    key: str | None,
    output: str | None,
    index: int | None,
    constants: dict[str, float],
    every: bool,
    as_json: bool,
) -> None:
    """List the inputs, outputs and layers of MODEL, and which layers can be audited."""
    from caveat.inspection import inspect
    from caveat.terminal import show_inspection
    from caveat_spec.sanitize import json_text

    inspection = inspect(model, None if local else url, key, output, index, constants)
    if as_json:
        click.echo(json_text(inspection.model_dump_json(indent=2)))
    else:
        show_inspection(inspection, every=every)


@cli.command(short_help="Write the gradient of a model as an ONNX file.")
@click.argument("model", type=PATH)
@click.option(
    "--layer",
    "layers",
    metavar="TENSOR",
    multiple=True,
    required=True,
    help="Layer at which to take the gradient; repeatable.",
)
@click.option(
    "--target",
    "targets",
    metavar="CLASS[-CLASS]",
    multiple=True,
    help="Class, or difference of two classes; repeatable. Leave out if the model has a single output.",
)
@click.option("--output", help="Output, or any tensor, with the classes; the first output by default.")
@click.option(
    "--scale",
    type=click.Choice(["logit", "log_probability", "probability"]),
    default="logit",
    show_default=True,
    help="Quantity that is differentiated.",
)
@click.option("--reduce", type=click.Choice(["mean", "sum", "max"]), help="How several scores per example become one.")
@_constant
@click.option("--write", "-o", type=PATH, default=Path("gradient.onnx"), show_default=True, help="Output file.")
def differentiate(
    model: Path,
    layers: tuple[str, ...],
    targets: tuple[str, ...],
    output: str | None,
    scale: Any,
    reduce: Any,
    constants: dict[str, float],
    write: Path,
) -> None:
    """Write the gradient of MODEL as a plain ONNX file, for any ONNX Runtime.

    The file takes MODEL's inputs. For each example it returns the target's value and its gradient at each layer:
    `value/TARGET` and `gradient/TARGET/LAYER`. The gradient is compared with finite differences on random input before
    it is written.
    """
    from caveat.gradient import write_gradient
    from caveat.terminal import show_gradient

    asked: dict[str, Any] = {"output": output, "scale": scale, "reduce": reduce, "constants": constants}
    show_gradient(write_gradient(model, layers, targets, write, **asked))


@cli.command(short_help="Take a concept out of a model, and audit it before and after.")
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


@cli.command(short_help="Make pictures of what a layer looks for, beside examples that have most of it.")
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
def visualise(write: Path, audit: Path, **wanted: Any) -> None:
    """Make pictures that atoms of a layer respond to most, for the model of the file AUDIT.

    Writes each as PNG, `visualised.json` with their digests and how strongly each atom responds, and a page,
    `index.html`, that shows them beside examples of a set. A picture to which the response is lower than to an example
    is not shown. The pictures are in no report: their pixels depend on the processor.
    """
    from caveat.auditfile import read_audit
    from caveat.terminal import progress, show_pictures
    from caveat.visualising import visualise as make
    from caveat.visualising import write_pictures

    with progress() as on_progress:
        made = make(read_audit(audit), wanted, on_progress)
    show_pictures(made, write_pictures(made, write))


@cli.command(short_help="Write a model that also gives each example's concept scores.")
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


@cli.command(short_help="Write a first audit file for a model.")
@click.argument("model", type=PATH)
@click.option("--write", "-o", type=PATH, default=Path("audit.yaml"), show_default=True, help="Output file.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@_server
def init(model: Path, write: Path, force: bool, local: bool, url: str | None, key: str | None) -> None:
    """Write a first audit file for MODEL, with the example data found in its folder.

    Drafts concepts, matched pairs, groups and a gate, and runs the draft with few resamples before it is written: on
    the service at --url, or without one on this machine. If the data do not make an audit, says what to put where,
    writes nothing, and exits with 2.
    """
    from caveat.scaffold import write_first_audit

    write_first_audit(model, write, force, None if local else url, key)


@cli.command(short_help="Print the JSON Schema of an audit file.")
def schema() -> None:
    """Print the JSON Schema of an audit file, which editors use for validation and completion."""
    from caveat.schema import audit_schema

    click.echo(audit_schema())


@cli.command(short_help="Run the whole service on this machine.")
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


def _blobs(command: Any) -> Any:
    return click.option(
        "--blobs-url",
        envvar="CAVEAT_BLOBS_URL",
        show_envvar=True,
        default=".caveat/blobs",
        show_default=True,
        help="Blob storage of the service.",
    )(command)


def _database(command: Any) -> Any:
    """Adds the option that names a service's database."""
    return click.option(
        "--database-url",
        envvar="CAVEAT_DATABASE_URL",
        show_envvar=True,
        default="sqlite:///.caveat/caveat.db",
        show_default=True,
        help="Database of the service.",
    )(command)


DAYS = click.option(
    "--days", type=click.FloatRange(min=0, min_open=True), help="Days until the key expires; never by default."
)


@cli.group(cls=Commands, short_help="Create, list, revoke and rotate bearer keys.")
def keys() -> None:
    """Create, list, revoke and rotate the bearer keys in a service's database.

    A key belongs to a tenant and has scopes: `submit` (upload and start audits), `read` (see results), and `admin`
    (both, and audit log and webhooks).
    """


@keys.command("create")
@click.option("--tenant", required=True, help="Tenant of the key: letters, digits, `_`, `.` and `-`.")
@click.option("--name", default="key", show_default=True, help="Name that tells what the key is for, such as `ci`.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["submit", "read", "admin"]),
    multiple=True,
    default=("submit", "read"),
    show_default=True,
    help="Scope of the key; repeatable.",
)
@DAYS
@_database
def create_key(tenant: str, name: str, scopes: Any, days: float | None, database_url: str) -> None:
    """Create a key and print it. It cannot be shown again."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", tenant) is None or not 1 <= len(name) <= 64:
        raise click.UsageError("A tenant is up to 64 letters, digits, `_`, `.` and `-`; a name up to 64 characters.")
    from caveat.keys import create

    click.echo(create(database_url, tenant, name, scopes, _days(days)))


@keys.command("list")
@click.option("--tenant", help="List only the keys of this tenant.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_database
def list_keys(tenant: str | None, as_json: bool, database_url: str) -> None:
    """List all keys, without their secrets."""
    from caveat.keys import issued
    from caveat.terminal import show_keys

    show_keys(issued(database_url, tenant), as_json=as_json)


@keys.command("revoke")
@click.argument("key")
@_database
def revoke_key(key: str, database_url: str) -> None:
    """Revoke KEY (the key or its id) at once."""
    from caveat.keys import revoke

    revoke(database_url, key)
    click.echo("The key is revoked; requests with it are refused from now on.")


@keys.command("rotate")
@click.argument("key")
@click.option(
    "--overlap-hours",
    type=click.FloatRange(min=0),
    default=24,
    show_default=True,
    help="Hours for which the old key remains valid.",
)
@DAYS
@_database
def rotate_key(key: str, overlap_hours: float, days: float | None, database_url: str) -> None:
    """Replace KEY (the key or its id) by a new key with the same tenant, name and scopes, and print it."""
    from caveat.keys import rotate

    click.echo(rotate(database_url, key, timedelta(hours=overlap_hours), _days(days)))


@cli.command(short_help="Erase a tenant's data.")
@click.option("--tenant", required=True, help="Tenant whose data are erased.")
@click.option(
    "--older-than-days",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Erase only data older than this; all by default.",
)
@_database
def erase(tenant: str, older_than_days: float, database_url: str) -> None:
    """Erase a tenant's finished jobs, their reports, their details in the audit log, and its uploads.

    Without --older-than-days, webhooks and their pending deliveries are erased too. The audit log keeps an entry for
    each request, without its details, and records what was erased and by whom. The uploaded bytes are deleted by
    `caveat collect`, or by a worker within about a day. Keys and their log entries remain; revoke them separately.
    """
    from caveat.retention import erase_tenant

    gone = erase_tenant(database_url, tenant, timedelta(days=older_than_days))
    click.echo(
        f"Erased {gone.jobs} jobs and {gone.webhooks} webhooks; {gone.blobs} uploads no longer belong to the tenant."
    )
    if gone.left:
        click.echo(f"{gone.left} jobs are unfinished and were kept; cancel them, then erase again.", err=True)


@cli.command(short_help="Delete stored files that nothing references.")
@_blobs
@click.option(
    "--grace-hours",
    type=click.FloatRange(min=0),
    default=24,
    show_default=True,
    help="Delete only files that nothing has referenced for so many hours.",
)
@_database
def collect(blobs_url: str, grace_hours: float, database_url: str) -> None:
    """Delete stored files that no upload, job or report has referenced for a while.

    Workers do this every few hours, and it is safe to run while the service is in use: referenced files are never
    deleted.
    """
    from caveat.retention import collect_garbage

    found = collect_garbage(database_url, blobs_url, timedelta(hours=grace_hours))
    click.echo(f"Deleted {found.removed} blobs, and the remains of {found.broken} interrupted uploads.")
    if found.adopted:
        click.echo(f"{found.adopted} blobs were unknown to the database; they will be deleted unless they are used.")


@cli.command(short_help="Verify the stored files of a service.")
@_blobs
@_database
def scrub(blobs_url: str, database_url: str) -> None:
    """Read every stored file and compare it with its digest.

    Workers do this too, spread over CAVEAT_SCRUB_DAYS, and it is safe to run while the service is in use. Damaged,
    unreadable and missing files are listed, and the command exits with 1: nothing uses them, and their next upload
    replaces them.
    """
    from caveat.retention import verify_blobs

    found = verify_blobs(database_url, blobs_url)
    for digest in found.damaged:
        click.echo(f"damaged     {digest}")
    for digest in found.unreadable:
        click.echo(f"unreadable  {digest}")
    for digest in found.missing:
        click.echo(f"missing     {digest}")
    click.echo(
        f"Verified {found.verified} blobs ({found.bytes:,} bytes): "
        f"{len(found.damaged)} others are damaged, {len(found.unreadable)} are unreadable, "
        f"{len(found.missing)} are missing."
    )
    if found.damaged or found.unreadable or found.missing:
        raise SystemExit(1)


def _start_engine(local: bool, url: str | None) -> None:
    """Starts the process that will run an audit on this machine, where it runs on this machine."""
    if local or url is None:
        from caveat.local_engine import start_engine

        start_engine()


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def main() -> None:
    """Runs the command; exits with 130 when interrupted."""
    import signal

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        code = cli.main(standalone_mode=False)
    except click.Abort:
        click.echo("Stopped.", err=True)
        code = 130
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Exception:  # 1 means that a gate failed, so nothing else may exit with it
        from caveat.console_output import show_traceback

        show_traceback(traceback.format_exc())
        click.echo("Error: this is a bug in Caveat; please report it with the lines above.", err=True)
        code = 3
    sys.exit(code)
