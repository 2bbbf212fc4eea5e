"""The gate: an audit is run, or a report decided again; either way it ends in a verdict and an exit code."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from api_spec.audit import Audit
from api_spec.gate import decide
from api_spec.report import Outcome, Report
from caveat import terminal
from caveat.auditfile import checked, read_audit, read_policy, resolve
from caveat.baseline import LAST, last_passing
from caveat.document import Positions
from caveat.outputs import append_summary, write, write_outputs
from caveat.problems import FAIL, INCONCLUSIVE, PASS, ProblemError, pointing_into, problem
from reports.canonical import canonical, digest

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

WhenInconclusive = Literal["pass", "fail", "4"]
Attest = Callable[[bytes, str | None], bytes]
"""From a report's bytes and its baseline's digest to the signed envelope."""

_EXIT: dict[Outcome | None, int] = {"pass": PASS, "fail": FAIL, "inconclusive": INCONCLUSIVE, None: PASS}


@dataclass(frozen=True)
class Decided:
    """A report with its verdict, and what is needed to show and to sign it."""

    report: Report
    written: bytes
    """Its canonical bytes."""
    positions: Positions | None
    """Where the gate's lines stand."""
    baseline: Report | None
    attest: Attest | None = None


def gate_audit(
    path: Path, server: str | None, key: str | None, *, baseline: Path | None, sign_key: str | None, attested: bool
) -> Decided:
    """Runs the audit in a file, on a server or in a sandboxed child, and compares it with a baseline."""
    file = read_audit(path)
    if baseline == LAST and server is None:
        raise _nobody_remembers()
    before = None if baseline is None or baseline == LAST else read_report(baseline)
    keys = _signers(sign_key, server) if attested else []
    with tempfile.TemporaryDirectory(prefix="caveat-") as scratch, pointing_into(file.positions):
        resolved = resolve(file, Path(scratch))
        for note in resolved.notes:
            terminal.show_note(note)
        if server is not None and baseline == LAST:
            before = last_passing(server, key, resolved.audit)
            if before is None:
                terminal.show_note(
                    "No audit on the service asked the same and passed; there is nothing to compare with."
                )
        with terminal.progress() as watch:
            if server is None:
                from caveat.local import run_here

                started, written, audit = _now(), run_here(resolved, watch), None
            else:
                from caveat.remote import run_there

                started, (written, audit) = _now(), run_there(server, key, resolved, watch)
    report = Report.model_validate_json(written)
    if before is not None:
        report = report.model_copy(update={"verdict": decide(report, report.audit.gate, before)})
        written = canonical(report)
    attest = (
        _by_service(server, key, audit) if server and audit and not keys else _by_hand(keys, server, audit, started)
    )
    return Decided(report, written, file.positions, before, attest)


def gate_report(path: Path, policy: Path | None, *, baseline: Path | None) -> Decided:
    """Decides a report again: by its own gate, or by the lines of a policy."""
    report = read_report(path)
    before = None if baseline is None else read_report(baseline)
    audit, positions = report.audit, None
    if policy is not None:
        asked, positions = read_policy(policy)
        lines = asked.model_dump(mode="json")["gate"]
        audit = checked(Audit, audit.model_dump(mode="json") | {"gate": lines}, positions)
    decided = report.model_copy(update={"audit": audit, "verdict": decide(report, audit.gate, before)})
    return Decided(decided, canonical(decided), positions, before)


def finish(
    decided: Decided, wanted: dict[str, Path], attestation: Path | None, when_inconclusive: WhenInconclusive
) -> int:
    """Shows the verdict, writes what was asked for, and returns the exit code."""
    report, baseline = decided.report, decided.baseline
    terminal.show_verdict(report)
    if baseline is not None:
        terminal.show_moves(report, baseline)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        terminal.annotate(report, decided.positions)
    write_outputs(report, decided.written, wanted, decided.positions, baseline)
    append_summary(report, baseline)
    written = list(wanted.values())
    if attestation is not None and decided.attest is not None:
        envelope = decided.attest(decided.written, None if baseline is None else digest(baseline))
        write(attestation, envelope, "attestation")
        written.append(attestation)
    if written:
        terminal.show_note(f"Wrote {', '.join(map(str, written))}.")
    outcome = report.verdict.outcome
    if outcome == "inconclusive" and when_inconclusive != "4":
        return PASS if when_inconclusive == "pass" else FAIL
    return _EXIT[outcome]


def read_report(path: Path) -> Report:
    """The report that `--json` wrote."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise problem(
            "unreadable-report",
            422,
            f"The report {path} cannot be read: {error.strerror}.",
            "`caveat gate audit.yaml --json report.json` writes one.",
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        pointer = "".join(f"/{part}" for part in first["loc"])
        raise problem(
            "not-a-report",
            422,
            f"{path} is not a report of this version of Caveat: {pointer or 'the file'}: {first['msg']}.",
            "Give the file that --json wrote; a report of another version has to be made again.",
        ) from None


def _signers(sign_key: str | None, server: str | None) -> list[Signer]:
    """The keys to sign with here, looked at before anything is run; none where the service will sign."""
    if sign_key is not None:
        from caveat.evidence import signers

        return signers(sign_key)
    if server is None:
        raise problem(
            "no-key",
            422,
            "An attestation of an audit on this machine has to be signed here, and there is no key.",
            "Give one with --sign-key or $CAVEAT_SIGNING_KEY; `caveat keygen` makes one.",
        )
    return []


def _nobody_remembers() -> ProblemError:
    return problem(
        "no-service",
        422,
        "Only a service remembers which audit was the last that passed.",
        "Set $CAVEAT_URL, or give --baseline the file that --json wrote.",
    )


def _by_hand(keys: list[Signer], server: str | None, audit: str | None, started: datetime) -> Attest:
    """Signs here what ran here, or what was seen to run on a service."""
    finished = _now()

    def attest(report: bytes, baseline: str | None) -> bytes:
        from api_spec.attestation import Run
        from caveat.evidence import here, sign

        run = Run(audit=audit, where=server or here(), started_at=started, finished_at=finished)
        return sign(report, run, baseline, keys)

    return attest


def _by_service(url: str, key: str | None, audit: str) -> Attest:
    """Fetches what the service signs, and makes sure that it is about this very report."""

    def attest(report: bytes, baseline: str | None) -> bytes:
        from caveat.evidence import report_of
        from caveat.remote import fetch_attestation

        envelope = fetch_attestation(url, key, audit)
        if report_of(envelope) != f"sha256:{sha256(report).hexdigest()}":
            raise problem(
                "other-report",
                422,
                "The service signs the report that it made; this one's verdict compares it with a baseline, which the "
                "service has not seen."
                if baseline
                else "The service's attestation is about another report.",
                "Sign it here, with --sign-key.",
            )
        return envelope

    return attest


def _now() -> datetime:
    """The time, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
