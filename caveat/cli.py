"""The command. Its modules are imported when a command runs, so that `caveat --help` is quick."""

from __future__ import annotations

import re
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)


class Commands(click.Group):
    """A group of commands that tells a problem in words and turns it into an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was named."""
        from caveat.problems import ProblemError

        try:
            return super().invoke(ctx)
        except ProblemError as error:
            from caveat.terminal import show_problem

            show_problem(error)
            ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="caveat")
def cli() -> None:
    """Audits ONNX models with concepts: does the model lean on what it must not?

    Start with `caveat init model.onnx`, which writes an audit file, and `caveat gate audit.yaml`, which runs it.
    """


def _server(command: Any) -> Any:
    """The options of a command that a server can do, and this machine too."""
    for option in (
        click.option("--key", envvar="CAVEAT_KEY", show_envvar=True, help="The service's bearer key."),
        click.option("--url", envvar="CAVEAT_URL", show_envvar=True, help="The service to run on."),
        click.option("--local", is_flag=True, help="Run here, whatever the URL says."),
    ):
        command = option(command)
    return command


FORMATS = {
    "json": "canonical JSON, which --report reads",
    "html": "one page that needs no network",
    "markdown": "Markdown, for comments",
    "junit": "JUnit XML, a test case for each line of the gate",
    "sarif": "SARIF 2.1.0, for code scanning",
    "gitlab": "GitLab's code quality report",
    "openmetrics": "GitLab's metrics report",
}


def _outputs(command: Any) -> Any:
    """One option for each form that a report can have."""
    for name, words in reversed(FORMATS.items()):
        command = click.option(f"--{name}", f"{name}_", type=PATH, help=f"Write the report as {words}.")(command)
    return command


@cli.command(short_help="Run an audit and judge it by its gate.")
@click.argument("audit", type=PATH, required=False)
@_server
@click.option("--report", type=PATH, help="Decide this report again, offline, instead of running an audit.")
@click.option("--policy", type=PATH, help="With --report: the YAML file whose `gate` decides; else the report's own.")
@click.option(
    "--baseline",
    type=PATH,
    help="Show what moved since an earlier report (--json), and whether beyond noise; `last`: since the newest one on "
    "the service that asked the same and passed.",
)
@_outputs
@click.option("--attestation", type=PATH, help="Write the signed statement of what was audited, for `caveat verify`.")
@click.option(
    "--sign-key",
    envvar="CAVEAT_SIGNING_KEY",
    show_envvar=True,
    help="The ed25519 key (PEM, a file or a folder) that signs it; without one the service signs.",
)
@click.option(
    "--inconclusive",
    type=click.Choice(["pass", "fail", "4"]),
    default="4",
    show_default=True,
    help="What an inconclusive gate exits as.",
)
def gate(
    audit: Path | None,
    local: bool,
    url: str | None,
    key: str | None,
    report: Path | None,
    policy: Path | None,
    baseline: Path | None,
    attestation: Path | None,
    sign_key: str | None,
    inconclusive: Any,
    **wanted: Path | None,
) -> None:
    """Run the audit in AUDIT (YAML or JSON) and judge it by its gate.

    Runs on the service at $CAVEAT_URL, else on this machine in a sandboxed child; the report is the same.

    Exits with 0 where the gate passes, 1 where it fails, 2 for an invalid audit, 3 where the machinery failed,
    4 where the evidence settles nothing.
    """
    if (audit is None) == (report is None):
        raise click.UsageError("Give an audit file, or --report with a report to decide again.")
    if policy is not None and report is None:
        raise click.UsageError("--policy goes with --report; an audit file has its own gate.")
    if attestation is not None and report is not None:
        raise click.UsageError("--attestation goes with an audit that is run: nobody saw where a report came from.")
    from caveat.gate import finish, gate_audit, gate_report

    if report is not None:
        decided = gate_report(report, policy, baseline=baseline)
    elif audit is not None:
        server, attested = None if local else url, attestation is not None
        decided = gate_audit(audit, server, key, baseline=baseline, sign_key=sign_key, attested=attested)
    paths = {name.removesuffix("_"): path for name, path in wanted.items() if path is not None}
    click.get_current_context().exit(finish(decided, paths, attestation, inconclusive))


def _named_paths(_: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    """`photos=pictures/photos/` as a name and a path."""
    pairs = [value.partition("=") for value in values]
    if any(not (name and path) for name, _, path in pairs):
        raise click.BadParameter("give NAME=PATH, with the name that the audit file has for the set.", param=parameter)
    return {name: Path(path) for name, _, path in pairs}


@cli.command(short_help="Check a signed attestation, or a log.")
@click.argument("envelope", type=PATH, required=False)
@click.option("--key", "keys", type=PATH, multiple=True, help="A public key (PEM), or a folder of them; repeatable.")
@click.option("--log", type=PATH, help="A log (`caveat log`) that nobody should have changed.")
@click.option("--earlier", type=PATH, help="With --log: an earlier copy, of which it should be the continuation.")
@click.option("--report", type=PATH, help="The report (--json) that should be the one that was signed.")
@click.option("--model", type=PATH, help="The model that should be the one that was audited.")
@click.option(
    "--examples",
    metavar="NAME=PATH",
    multiple=True,
    callback=_named_paths,
    help="A file or folder that should be the example set of that name; repeatable.",
)
def verify(
    envelope: Path | None,
    keys: tuple[Path, ...],
    log: Path | None,
    earlier: Path | None,
    report: Path | None,
    model: Path | None,
    examples: dict[str, Path],
) -> None:
    """Check a signed attestation, and hold the files that it speaks of against it; or check a log; or both.

    Says in words what was audited, when, where, and how the gate decided; and of a log, that nothing in it was changed,
    left out, put in or moved, what it tells, and whether it has the report that is attested.

    Exits with 0 where all that was looked at holds, 1 where something does not, 2 where a file cannot be read.
    """
    named = {"report": report, "model": model, **{f"examples/{name}": path for name, path in examples.items()}}
    files = {name: path for name, path in named.items() if path is not None}
    if envelope is None and log is None:
        raise click.UsageError("Give an attestation, or a log with --log, or both.")
    if envelope is not None and not keys:
        raise click.UsageError("--key is needed: without a public key an attestation proves nothing.")
    if envelope is None and files:
        raise click.UsageError("--report, --model and --examples are held against an attestation: give one.")
    if earlier is not None and log is None:
        raise click.UsageError("--earlier goes with --log.")
    from caveat.terminal import show_checks, show_log

    holds, statement = True, None
    if envelope is not None:
        from caveat.evidence import check

        checked = check(envelope, keys, files)
        show_checks(checked)
        holds, statement = checked.holds, checked.statement
    if log is not None:
        from caveat.log import check as check_log

        told, checks = check_log(log, keys, earlier, statement)
        show_log(told, checks)
        holds &= all(one.holds is not False for one in checks)
    click.get_current_context().exit(0 if holds else 1)


@cli.command(short_help="Fetch the log of everything that was done.")
@click.option("--write", "-o", type=PATH, default=Path("caveat.log.jsonl"), show_default=True, help="Where to.")
@click.option("--url", envvar="CAVEAT_URL", show_envvar=True, help="The service.")
@click.option("--key", envvar="CAVEAT_KEY", show_envvar=True, help="A bearer key with the scope `admin`.")
def log(write: Path, url: str | None, key: str | None) -> None:
    """Fetch your log from a service: who asked for what, which report came of it, and which verdict.

    Keep it: `caveat verify --log NEW --earlier OLD` shows that what was logged before was not rewritten since.
    """
    from caveat.log import fetch

    told = fetch(url, key, write)
    signed = "its end is signed" if told.head else "its end is not signed: the service has no key"
    click.echo(f"Wrote {write}: {told.length} entries, and {signed}.")


@cli.command(short_help="Make a key pair for attestations.")
@click.argument("name", type=PATH, default=Path("caveat"))
def keygen(name: Path) -> None:
    """Make an ed25519 key pair: NAME.key signs attestations (keep it secret), NAME.pub lets others check them.

    The private key goes to $CAVEAT_SIGNING_KEY: as text, as a file, or as a folder of several, such as a mounted
    Kubernetes secret. While one key takes over from another, both sign.
    """
    from caveat.evidence import make_keys

    keyid = make_keys(name)
    click.echo(f"Wrote {name}.key, which signs, and {name}.pub, which checks. The key's id is {keyid}.")
    click.echo(f"Next: caveat gate audit.yaml --json report.json --attestation report.dsse.json --sign-key {name}.key")


@cli.command(short_help="List what can be audited in a model.")
@click.argument("model", type=PATH)
@_server
@click.option("--output", help="For this output, or any tensor; else for the model's first.")
@click.option("--index", type=click.IntRange(min=0), help="For this class of it.")
@click.option("--all", "every", is_flag=True, help="Also the layers that cannot be audited, and why not.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def layers(
    model: Path,
    local: bool,
    url: str | None,
    key: str | None,
    output: str | None,
    index: int | None,
    every: bool,
    as_json: bool,
) -> None:
    """List what can be audited in MODEL, and what cannot and why."""
    from caveat.inspection import inspect
    from caveat.terminal import show_inspection

    inspection = inspect(model, None if local else url, key, output, index)
    if as_json:
        click.echo(inspection.model_dump_json(indent=2))
    else:
        show_inspection(inspection, every=every)


@cli.command(short_help="Write a model's gradient as a model.")
@click.argument("model", type=PATH)
@click.option("--layer", "layers", metavar="TENSOR", multiple=True, required=True, help="A layer; repeatable.")
@click.option(
    "--target",
    "targets",
    metavar="CLASS[-CLASS]",
    multiple=True,
    help="A class, or the difference of two; repeatable. Left out for a model with a single number.",
)
@click.option("--output", help="The output, or any tensor, that the classes are of.")
@click.option("--scale", type=click.Choice(["logit", "log_probability", "probability"]), default="logit")
@click.option("--reduce", type=click.Choice(["mean", "sum", "max"]), help="How several scores an example become one.")
@click.option("--write", "-o", type=PATH, default=Path("gradient.onnx"), show_default=True, help="Where to.")
def differentiate(
    model: Path,
    layers: tuple[str, ...],
    targets: tuple[str, ...],
    output: str | None,
    scale: Any,
    reduce: Any,
    write: Path,
) -> None:
    """Write the gradient of MODEL as a model of its own: plain ONNX, for any ONNX Runtime.

    It reads what MODEL reads, and yields the number and its gradient at each layer, for each example: `value/TARGET`
    and `gradient/TARGET/LAYER`. Before it is written, it is compared with finite differences on noise.
    """
    from caveat.gradient import write_gradient
    from caveat.terminal import show_gradient

    show_gradient(write_gradient(model, layers, targets, write, output=output, scale=scale, reduce=reduce))


@cli.command(short_help="Write a first audit file for a model.")
@click.argument("model", type=PATH)
@click.option("--write", "-o", type=PATH, default=Path("audit.yaml"), show_default=True, help="Where to.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@_server
def init(model: Path, write: Path, force: bool, local: bool, url: str | None, key: str | None) -> None:
    """Write a first audit file for MODEL, from the model and the data beside it."""
    from caveat.first import write_first_audit

    write_first_audit(model, write, force, None if local else url, key)


@cli.command(short_help="Print the JSON Schema of an audit file.")
def schema() -> None:
    """Print the JSON Schema of an audit file, for editors to check and complete it."""
    from caveat.schema import audit_schema

    click.echo(audit_schema())


@cli.command(short_help="Run the whole service on this machine.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--data", type=PATH, default=Path(".caveat"), show_default=True, help="The folder that keeps everything.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Audits at a time.")
def up(port: int, host: str, data: Path, workers: int) -> None:
    """Run the whole service on this machine: Valkey, a worker, the API. Ctrl-C stops it."""
    from caveat.up import run_up

    click.get_current_context().exit(run_up(host, port, data, workers))


def _database(command: Any) -> Any:
    """The option of a command that works on a service's database."""
    return click.option(
        "--database-url",
        envvar="CAVEAT_DATABASE_URL",
        show_envvar=True,
        default="sqlite:///.caveat/caveat.db",
        show_default=True,
        help="The service's database.",
    )(command)


DAYS = click.option("--days", type=click.FloatRange(min=0, min_open=True), help="It expires after so many days.")


@cli.group(cls=Commands, short_help="Make, list, end and replace bearer keys.")
def keys() -> None:
    """Bearer keys of a service, in its database: made, listed, ended, replaced.

    A key has a tenant and scopes: `submit` (put in and ask), `read` (look), `admin` (both, the log and the webhooks).
    """


@keys.command("create")
@click.option("--tenant", required=True, help="Whose key: letters, digits, `_`, `.` and `-`.")
@click.option("--name", default="key", show_default=True, help="What it is for, such as `ci`.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["submit", "read", "admin"]),
    multiple=True,
    default=("submit", "read"),
    show_default=True,
    help="What it may do; repeatable.",
)
@DAYS
@_database
def create_key(tenant: str, name: str, scopes: Any, days: float | None, database_url: str) -> None:
    """Make a key and print it; it can never be shown again."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", tenant) is None or not 1 <= len(name) <= 64:
        raise click.UsageError("A tenant is up to 64 letters, digits, `_`, `.` and `-`; a name up to 64 characters.")
    from caveat.keys import create

    click.echo(create(database_url, tenant, name, scopes, _days(days)))


@keys.command("list")
@click.option("--tenant", help="Only this one's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_database
def list_keys(tenant: str | None, as_json: bool, database_url: str) -> None:
    """Show the keys there are, without their secrets."""
    from caveat.keys import issued
    from caveat.terminal import show_keys

    show_keys(issued(database_url, tenant), as_json=as_json)


@keys.command("revoke")
@click.argument("key")
@_database
def revoke_key(key: str, database_url: str) -> None:
    """End KEY (its id, or the key itself) at once."""
    from caveat.keys import revoke

    revoke(database_url, key)
    click.echo("The next request with it is refused.")


@keys.command("rotate")
@click.argument("key")
@click.option("--overlap-hours", type=click.FloatRange(min=0), default=24, show_default=True, help="Both work so long.")
@DAYS
@_database
def rotate_key(key: str, overlap_hours: float, days: float | None, database_url: str) -> None:
    """Make a key with the tenant, name and scopes of KEY (its id, or the key itself), which then ends, and print it."""
    from caveat.keys import rotate

    click.echo(rotate(database_url, key, timedelta(hours=overlap_hours), _days(days)))


@cli.command(short_help="Erase what a tenant asked and put in.")
@click.option("--tenant", required=True, help="Whose.")
@click.option("--older-than-days", type=click.FloatRange(min=0), default=0.0, help="Only what is older; else all.")
@_database
def erase(tenant: str, older_than_days: float, database_url: str) -> None:
    """Erase a tenant's ended jobs, their reports, what the log says of them, and bytes that no other job of it reads.

    Without --older-than-days its webhooks go too, with what was still to be told. The log keeps an entry for each thing
    that was asked, without what was asked, and says what was erased and by whom. Bytes are deleted by `caveat collect`,
    or by a worker within a day or so. Keys stay, and what the log says of them: revoke them.
    """
    from caveat.keeping import erase_tenant

    gone = erase_tenant(database_url, tenant, timedelta(days=older_than_days))
    click.echo(
        f"Erased {gone.jobs} jobs and {gone.webhooks} webhooks; {gone.blobs} uploads are not the tenant's any more."
    )
    if gone.left:
        click.echo(f"{gone.left} jobs have not ended, and stay: cancel them, then erase again.", err=True)


@cli.command(short_help="Delete stored bytes that nothing names.")
@click.option("--blobs-url", envvar="CAVEAT_BLOBS_URL", show_envvar=True, default=".caveat/blobs", show_default=True)
@click.option(
    "--unused-hours", type=click.FloatRange(min=0), default=24, show_default=True, help="Unnamed for so long."
)
@_database
def collect(blobs_url: str, unused_hours: float, database_url: str) -> None:
    """Delete bytes that no upload, job or report has named for a while; workers do so by themselves every few hours.

    It may run beside the service. What is named is never deleted.
    """
    from caveat.keeping import collect_unnamed

    found = collect_unnamed(database_url, blobs_url, timedelta(hours=unused_hours))
    click.echo(f"Deleted {found.removed} blobs, and what came of {found.broken} uploads that broke off.")
    if found.adopted:
        click.echo(f"{found.adopted} blobs were not known to the database; they go if nothing names them until then.")


def _days(days: float | None) -> timedelta | None:
    return None if days is None else timedelta(days=days)


def main() -> None:
    """Runs the command, and exits as a shell expects of what was interrupted."""
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
        traceback.print_exc()
        click.echo("Error: this is a fault in Caveat itself; please report it with the lines above.", err=True)
        code = 3
    sys.exit(code)
