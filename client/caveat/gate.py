"""`caveat gate`: runs an audit or decides an existing report again, and turns the verdict into an exit code."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from caveat import terminal
from caveat.auditfile import AuditFile, Resolved, checked, fetched, read_audit, read_policy, resolve
from caveat.baseline import LAST, last_passing
from caveat.console_output import err, show_note
from caveat.outputs import append_summary, write, write_outputs
from caveat.positions import Positions
from caveat.problems import FAIL, INCONCLUSIVE, INFRASTRUCTURE, PASS, ProblemError, pointing_into, problem
from caveat_reports.canonical import canonical, digest
from caveat_spec.audit import Audit
from caveat_spec.base import digest_of_bytes
from caveat_spec.gate import decide
from caveat_spec.report import Outcome, Report
from caveat_storage.temporary_folders import temporary_folder

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from caveat.keyless import Sign

WhenInconclusive = Literal["pass", "fail", "4"]
Attest = Callable[[bytes, str | None], bytes]
"""Given a report's bytes and its baseline's digest, returns the signed envelope."""

_EXIT: dict[Outcome | None, int] = {"pass": PASS, "fail": FAIL, "inconclusive": INCONCLUSIVE, None: PASS}


@dataclass(frozen=True)
class Decided:
    """A report with its verdict, and all that is needed to show and to sign it."""

    report: Report
    written: bytes
    """Its canonical bytes."""
    positions: Positions | None
    """The positions of the gate's lines in the audit file or policy."""
    baseline: Report | None
    attest: Attest | None = None
    seconds: float | None = None
    """How long the audit took, if it ran now."""


def explain_audit(
    path: Path, server: str | None, key: str | None, wanted: dict[str, Path], maps: Path | None = None
) -> None:
    """Runs what an audit file asks in `explain` and nothing else, shows the findings, and writes the wanted files."""
    file = read_audit(path)
    if not file.audit.explain:
        raise problem(
            "nothing-to-explain",
            422,
            f"{path} asks for no explanation.",
            "Add one, such as `explain: {why: {of: zebra, show: [saliency]}}`; `caveat schema` has the rest.",
        )
    with pointing_into(file.positions):
        only = replace(file, audit=file.audit.only_explained())
        decided = run_audit_file(only, server, key, baseline=None, keys=[], maps=maps)
    terminal.show_explanations(decided.report)
    write_outputs(decided.report, decided.written, wanted, file.positions, None)
    written = [*wanted.values(), *([] if maps is None else [maps])]
    if written:
        show_note(f"Wrote {', '.join(map(str, written))}.")


def gate_audit(
    path: Path,
    server: str | None,
    key: str | None,
    *,
    baseline: Path | None,
    sign_key: str | None,
    attested: bool,
    remote_fetch: bool = False,
    maps: Path | None = None,
) -> Decided:
    """Runs the audit in a file, on a service or in a sandboxed child, and compares it with a baseline.

    With `remote_fetch` the service fetches the audit's URLs; otherwise this machine does.
    """
    file = read_audit(path)
    if server is None and (baseline == LAST or remote_fetch):
        raise _no_service("--baseline last" if baseline == LAST else "--remote-fetch")
    before = None if baseline is None or baseline == LAST else read_report(baseline)
    keys = signers_of(sign_key, server) if attested else []
    against = LAST if baseline == LAST else before
    return run_audit_file(file, server, key, baseline=against, keys=keys, remote_fetch=remote_fetch, maps=maps)


def run_audit_file(
    file: AuditFile,
    server: str | None,
    key: str | None,
    *,
    baseline: Path | Report | None,
    keys: list[Signer],
    remote_fetch: bool = False,
    maps: Path | None = None,
) -> Decided:
    """Runs an audit, on a service or in a sandboxed child, and decides its gate beside a baseline.

    The file of maps that belongs to its report is written to `maps`.
    """
    if maps is not None and not file.audit.keeps:
        raise problem(
            "no-maps", 422, "--maps writes what the audit keeps, and it keeps nothing.",
            "Add `keep: maps` to the file for the numbers of its figures, or `keep: cavs` for its concepts' vectors.",
        )  # fmt: skip
    before = baseline if isinstance(baseline, Report) else None
    keep = None if maps is None else partial(write, maps, option="maps")
    with pointing_into(file.positions), temporary_folder() as folder:
        resolved = resolve(file if remote_fetch else fetched(file, folder))
        for note in resolved.notes:
            show_note(note)
        if server is not None and baseline == LAST:
            before = last_passing(server, key, resolved.audit)
            if before is None:
                show_note(
                    "No passing audit on the service asks the same question; there is no baseline to compare with."
                )
        if server is None and err().is_terminal:
            _say_what_is_out_of_reach(resolved)
        began = monotonic()
        with terminal.progress() as on_progress:
            if server is None:
                from caveat import local

                started, written, audit = _now(), local.run_audit(resolved, on_progress, keep_maps=keep), None
            else:
                from caveat import remote

                started, (written, audit) = _now(), remote.run_audit(server, key, resolved, on_progress, keep_maps=keep)
    seconds = monotonic() - began
    report = Report.model_validate_json(written)
    if before is not None:
        report = report.model_copy(update={"verdict": decide(report, report.audit.gate, before)})
        written = canonical(report)
    attest = _by_service(server, key, audit) if server and audit and not keys else _by_key(keys, server, audit, started)
    return Decided(report, written, file.positions, before, attest, seconds)


def _say_what_is_out_of_reach(resolved: Resolved) -> None:
    """Names the lines that these examples cannot settle, before anybody waits; faults are the audit's to say."""
    from caveat import local

    try:
        planned = local.plan_audit(resolved, None, lambda stage, share: None, show_faults=False)
    except ProblemError:
        return
    for sentence in planned.unreachable:
        show_note(sentence)
    if planned.unreachable:
        show_note(planned.assumed)


def gate_report(path: Path, policy: Path | None, *, baseline: Path | None) -> Decided:
    """Decides an existing report again, by its own gate or by that of a policy."""
    report = read_report(path)
    before = None if baseline is None else read_report(baseline)
    audit, positions = report.audit, None
    if policy is not None:
        wanted, positions = read_policy(policy)
        lines = wanted.model_dump(mode="json")["gate"]
        audit = checked(Audit, audit.model_dump(mode="json") | {"gate": lines}, positions)
    decided = report.model_copy(update={"audit": audit, "verdict": decide(report, audit.gate, before)})
    return Decided(decided, canonical(decided), positions, before)


def finish(
    decided: Decided,
    wanted: dict[str, Path],
    attestation: Path | None,
    when_inconclusive: WhenInconclusive,
    trackers: Sequence[str] = (),
    maps: Path | None = None,
    sign: Sign | None = None,
) -> int:
    """Shows the verdict, writes the requested files, signs the report, logs to trackers, and returns the exit code.

    `sign` makes the bundle beside the report that `--json` wrote. A report that could not be signed or logged turns
    the code of a pass into that of the problem; a gate that fails or is open keeps its own.
    """
    report, baseline = decided.report, decided.baseline
    terminal.show_verdict(report)
    if baseline is not None:
        terminal.show_diff(report, baseline)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        terminal.annotate(report, decided.positions)
    write_outputs(report, decided.written, wanted, decided.positions, baseline, decided.seconds)
    append_summary(report, baseline)
    written = dict(wanted)
    if attestation is not None and decided.attest is not None:
        envelope = decided.attest(decided.written, None if baseline is None else digest(baseline))
        write(attestation, envelope, "attestation")
        written["attestation"] = attestation
    if written:
        show_note(f"Wrote {', '.join(map(str, written.values()))}.")
    if maps is not None:
        written["maps"] = maps
    code = exit_code(report)
    if report.verdict.outcome == "inconclusive" and when_inconclusive != "4":
        code = PASS if when_inconclusive == "pass" else FAIL
    if sign is not None:
        unsigned = _signed(decided, written, sign)
        code = code or unsigned
    return code if _logged(decided, written, trackers) else code or INFRASTRUCTURE


def _signed(decided: Decided, written: dict[str, Path], sign: Sign) -> int:
    """Writes the bundle beside the report, and says how to verify it, or why there is none; the exit code."""
    from caveat.keyless import bundle_of

    path = bundle_of(written["json"])
    try:
        signature = sign(decided.written)
        write(path, signature.bundle, "json")
    except ProblemError as error:
        terminal.show_problem(error)
        return error.exit_code
    written["sigstore"] = path
    show_note(f"Signed as {signature.identity}: wrote {path}. To verify it:")
    identity, issuer = shlex.quote(signature.identity), shlex.quote(signature.issuer)
    show_note(f"  caveat verify {written['json']} --sigstore-identity {identity} --sigstore-issuer {issuer}")
    return PASS


def _logged(decided: Decided, written: dict[str, Path], trackers: Sequence[str]) -> bool:
    """Logs the report to each tracker, and says where, or why not; whether all of them have it."""
    whole = True
    for name in trackers:
        from caveat.trackers.log_report import log_report

        try:
            where = log_report(name, decided.report, decided.written, decided.seconds, written)
            show_note(f"Logged to {where}.")
        except ProblemError as error:
            terminal.show_problem(error)
            whole = False
    return whole


def exit_code(report: Report) -> int:
    """The exit code of a report's verdict."""
    return _EXIT[report.verdict.outcome]


def read_report(path: Path) -> Report:
    """Reads a report that `--json` wrote."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise problem(
            "unreadable-report",
            422,
            f"The report {path} cannot be read: {error.strerror}.",
            "`caveat gate audit.yaml --json report.json` writes a report.",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        pointer = "".join(f"/{part}" for part in first["loc"])
        raise problem(
            "not-a-report",
            422,
            f"{path} is not a report of this version of Caveat: {pointer or 'the file'}: {first['msg']}.",
            "Name a file that --json wrote; for a report of another version, run the audit again.",
        ) from None


def signers_of(sign_key: str | None, server: str | None) -> list[Signer]:
    """The keys to sign with, loaded before the audit runs; none where the service will sign."""
    if sign_key is not None:
        from caveat.attestation import signers

        return signers(sign_key)
    if server is None:
        raise problem(
            "no-key",
            422,
            "To attest an audit on this machine, a signing key is needed.",
            "Pass one with --sign-key or $CAVEAT_SIGNING_KEY; `caveat keygen` makes one.",
        )
    return []


def _no_service(option: str) -> ProblemError:
    needs = {
        "--baseline last": "which knows the newest audit that passed",
        "--remote-fetch": "which fetches the audit's URLs",
    }
    instead = "pass --baseline a file that --json wrote" if "baseline" in option else "leave the option out"
    return problem(
        "no-service", 422, f"`{option}` needs a service, {needs[option]}.", f"Set $CAVEAT_URL, or {instead}."
    )


def _by_key(keys: list[Signer], server: str | None, audit: str | None, started: datetime) -> Attest:
    """Signs with the user's own keys an audit that ran on this machine or on a service."""
    finished = _now()

    def attest(report: bytes, baseline: str | None) -> bytes:
        from caveat.attestation import location, sign
        from caveat_spec.attestation import Run

        run = Run(audit=audit, where=server or location(), started_at=started, finished_at=finished)
        return sign(report, run, baseline, keys)

    return attest


def _by_service(url: str, key: str | None, audit: str) -> Attest:
    """Fetches the service's attestation, and checks that it names this report."""

    def attest(report: bytes, baseline: str | None) -> bytes:
        from caveat.attestation import report_of
        from caveat.remote import fetch_attestation

        envelope = fetch_attestation(url, key, audit)
        if report_of(envelope) != digest_of_bytes(report):
            raise problem(
                "other-report",
                422,
                "The service signs the report that it made. This verdict also depends on a baseline, which the service "
                "has not seen."
                if baseline
                else "The service's attestation names another report.",
                "Sign the report yourself, with --sign-key.",
            )
        return envelope

    return attest


def _now() -> datetime:
    """The current time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
