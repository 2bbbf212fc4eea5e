"""`caveat plan`: what an audit's examples can settle, before the model runs."""

from __future__ import annotations

from pathlib import Path

from caveat.auditfile import fetched, read_audit, resolve
from caveat.gate import read_report
from caveat.problems import pointing_into
from caveat.terminal import progress
from caveat_spec.power import AuditPlan
from caveat_storage.temporary_folders import temporary_folder


def plan_audit(path: Path, report: Path | None) -> AuditPlan:
    """Counts the examples of the audit in a file, in a sandboxed child, and calculates what its gate can settle."""
    file = read_audit(path)
    earlier = None if report is None else read_report(report)
    with pointing_into(file.positions), temporary_folder() as folder:
        resolved = resolve(fetched(file, folder))
        with progress() as on_progress:
            from caveat import local

            return local.plan_audit(resolved, earlier, on_progress)
