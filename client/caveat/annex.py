"""`caveat annex`: fills a published form from a report, its attestation, and what the person who files it states."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from caveat.attestation import check
from caveat.auditfile import checked
from caveat.gate import read_report
from caveat.outputs import write
from caveat.problems import problem
from caveat.yaml_source import read_document
from caveat_reports.annexes import fill
from caveat_reports.annexes.form import Annex, Material, Signature, UnknownFieldError
from caveat_spec.annexes import AnnexKind
from caveat_spec.filing import Filing


def fill_annex(
    kind: AnnexKind, path: Path, filing: Path | None, attestation: Path | None, keys: Sequence[Path]
) -> Annex:
    """The annex of a kind about the report at `path`; raises a `ProblemError` for an attestation that does not hold."""
    material = Material(
        read_report(path),
        Filing() if filing is None else _filing(filing),
        None if attestation is None else _signature(attestation, keys, path),
    )
    try:
        return fill(kind, material)
    except UnknownFieldError as fault:
        raise problem(
            "no-such-field",
            422,
            f"{filing}: {fault}.",
            f"The fields of this form are: {', '.join(fault.known)}.",
        ) from None


def write_annex(annex: Annex, wanted: dict[str, Path]) -> None:
    """Writes an annex in each wanted format (`html`, `csv`) to its path."""
    for name, path in wanted.items():
        render = import_module(f"caveat_reports.annexes.{name}").render
        write(path, render(annex).encode(), name)


def _filing(path: Path) -> Filing:
    document, positions = read_document(path)
    return checked(Filing, document, positions, "invalid-filing", "docs/how-to/file-an-annex.md shows one.")


def _signature(attestation: Path, keys: Sequence[Path], report: Path) -> Signature:
    found = check(attestation, keys, {"report": report})
    if not found.holds or found.statement is None:
        failed = next(one.sentence for one in found.checks if one.holds is False)
        raise problem(
            "attestation-does-not-hold",
            422,
            f"The attestation does not hold: {failed}",
            "Pass the attestation of this very report, and the public key that signed it.",
        )
    return Signature(found.statement.predicate.run, found.signed_by)
