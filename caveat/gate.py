"""The gate: an audit is run, or a report decided again; either way it ends in a verdict and an exit code."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from api_spec.audit import Audit
from api_spec.gate import decide
from api_spec.report import Outcome, Report
from caveat import terminal
from caveat.auditfile import checked, read_audit, read_policy, resolve
from caveat.document import Positions
from caveat.outputs import append_summary, write_outputs
from caveat.problems import FAIL, INCONCLUSIVE, PASS, pointing_into, problem
from reports.canonical import canonical

WhenInconclusive = Literal["pass", "fail", "4"]

_EXIT: dict[Outcome | None, int] = {"pass": PASS, "fail": FAIL, "inconclusive": INCONCLUSIVE, None: PASS}


def gate_audit(path: Path, server: str | None, key: str | None) -> tuple[Report, bytes, Positions | None]:
    """Runs the audit in a file, on a server or in a sandboxed child; its report, bytes, and the file's positions."""
    file = read_audit(path)
    with tempfile.TemporaryDirectory(prefix="caveat-") as scratch, pointing_into(file.positions):
        resolved = resolve(file, Path(scratch))
        for note in resolved.notes:
            terminal.show_note(note)
        with terminal.progress() as watch:
            if server is None:
                from caveat.local import run_here

                written = run_here(resolved, watch)
            else:
                from caveat.remote import run_there

                written = run_there(server, key, resolved, watch)
    return Report.model_validate_json(written), written, file.positions


def gate_report(path: Path, policy: Path | None) -> tuple[Report, bytes, Positions | None]:
    """Decides a report again: by its own gate, or by the lines of a policy."""
    report = _read_report(path)
    audit, positions = report.audit, None
    if policy is not None:
        asked, positions = read_policy(policy)
        lines = asked.model_dump(mode="json")["gate"]
        audit = checked(Audit, audit.model_dump(mode="json") | {"gate": lines}, positions)
    decided = report.model_copy(update={"audit": audit, "verdict": decide(report, audit.gate)})
    return decided, canonical(decided), positions


def finish(
    report: Report,
    written: bytes,
    positions: Positions | None,
    wanted: dict[str, Path],
    when_inconclusive: WhenInconclusive,
) -> int:
    """Shows the verdict, writes what was asked for, and returns the exit code."""
    terminal.show_verdict(report)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        terminal.annotate(report, positions)
    write_outputs(report, written, wanted, positions.path if positions else None)
    append_summary(report)
    if wanted:
        terminal.show_note(f"Wrote {', '.join(map(str, wanted.values()))}.")
    outcome = report.verdict.outcome
    if outcome == "inconclusive" and when_inconclusive != "4":
        return PASS if when_inconclusive == "pass" else FAIL
    return _EXIT[outcome]


def _read_report(path: Path) -> Report:
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
