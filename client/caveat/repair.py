"""`caveat edit`: changes a model along a concept, and audits it before and after on examples that it never saw."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from caveat import terminal
from caveat.auditfile import AuditFile, fetched
from caveat.console_output import show_note
from caveat.editing import Change, EditedFile, MonitorFile, halved, model_of, write_edit, write_monitor
from caveat.gate import Decided, run_audit_file
from caveat.outputs import write, write_outputs
from caveat.problems import pointing_into
from caveat_reports.canonical import digest
from caveat_spec.audit import Audit, LayerChoice, OtherVersion
from caveat_storage.temporary_folders import temporary_folder

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

BEFORE = "before_edit"
"""The name under which the original is compared with the edited model."""


@dataclass(frozen=True)
class Repaired:
    """An edited model with its audits."""

    file: EditedFile
    before: Decided
    """The original's audit, on examples that the change was not found in."""
    after: Decided
    """The edited model's audit on the same examples, with the original beside it."""


def repair(file: AuditFile, change: Change, path: Path, *, keys: list[Signer]) -> Repaired:
    """Writes the changed model, and audits the original and it on the second half of every example set.

    An edit of channels is not found in examples, so all of them judge it.
    """
    with pointing_into(file.positions), temporary_folder() as folder:
        there = fetched(file, folder)
        original = model_of(there, path).resolve()
        with terminal.progress() as on_progress:
            written = write_edit(there, change, path, on_progress)
        audit = there.audit if change.channels else halved(there.audit, "second", change.together)
        judged = replace(there, audit=audit.model_copy(update={"model": str(original)}))
        before = run_audit_file(judged, None, None, baseline=None, keys=keys)
        versions = {**audit.compare, BEFORE: OtherVersion(model=str(original))} if audit.targets else audit.compare
        update = {"model": str(path.resolve()), "compare": versions, "layers": _same_layers(audit, before)}
        edited = audit.model_copy(update=update)
        after = run_audit_file(replace(there, audit=edited), None, None, baseline=before.report, keys=keys)
    return Repaired(written, before, after)


def _same_layers(audit: Audit, before: Decided) -> Literal["auto"] | list[LayerChoice]:
    """The layers that were audited before: among the edited model's, `auto` may pick the tensor before the edit."""
    return [LayerChoice(tensor=one.tensor) for one in before.report.plan.layers if one.chosen] or audit.layers


def write_reports(repaired: Repaired, folder: Path, *, signed: bool) -> None:
    """Writes both reports as JSON and as pages, and their attestations where there is a key."""
    paths: list[Path] = []
    for name, decided in (("before", repaired.before), ("after", repaired.after)):
        wanted = {"json": folder / f"{name}.json", "html": folder / f"{name}.html"}
        write_outputs(decided.report, decided.written, wanted, decided.positions, decided.baseline)
        if signed and decided.attest is not None:
            wanted["attestation"] = folder / f"{name}.dsse.json"
            earlier = None if decided.baseline is None else digest(decided.baseline)
            write(wanted["attestation"], decided.attest(decided.written, earlier), "attestation")
        paths += wanted.values()
    show_note(f"Wrote {', '.join(map(str, paths))}.")


def monitor(file: AuditFile, path: Path, *, scores_only: bool = False) -> MonitorFile:
    """Writes the model with its concepts as further outputs."""
    with pointing_into(file.positions), temporary_folder() as folder:
        there = fetched(file, folder)
        with terminal.progress() as on_progress:
            return write_monitor(there, path, on_progress, scores_only=scores_only)
