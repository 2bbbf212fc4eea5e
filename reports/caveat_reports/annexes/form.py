"""What a published form asks, and how its fields are filled: from a report, by a person, or not at all.

No field is ever invented: one that neither the report nor the person answers says `Not recorded`, and what to give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from caveat_reports.canonical import digest
from caveat_spec.annexes import AnnexKind
from caveat_spec.attestation import Run
from caveat_spec.filing import Filing
from caveat_spec.report import Report

NOT_RECORDED = "Not recorded"
BY_THE_FILER = "stated by the filer"
NOTHING_STATED = Filing()


@dataclass(frozen=True)
class Field:
    """One thing that a form asks."""

    id: str
    """What a filing calls it."""
    title: str
    clause: str
    """Where the form asks it."""


@dataclass(frozen=True)
class Form:
    """A published form, with its fields in its own order."""

    title: str
    publisher: str
    citation: str
    url: str
    scope: str
    """What this annex covers of it, and what it is not."""
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Table:
    """A table of a form; cells are text, and columns after the first `words` are set to the right."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    words: int = 1
    """Columns at the left that hold words."""


@dataclass(frozen=True)
class Answer:
    """What a report says to a field, and where in it."""

    source: str
    """A place in the report or its attestation, such as `report: /plan/layers`."""
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Missing:
    """A field that the report leaves open, and what would fill it."""

    remedy: str


@dataclass(frozen=True)
class Signature:
    """A verified attestation of the report."""

    run: Run
    keyids: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """All that an annex is made of."""

    report: Report
    filing: Filing = NOTHING_STATED
    signature: Signature | None = None


Fill = Callable[[Material], Answer | Missing]


@dataclass(frozen=True)
class Entry:
    """A field with what fills it: an answer of the report, a person's words, both, or neither."""

    field: Field
    answer: Answer | None
    stated: str | None
    remedy: str | None
    """What to give, where the report does not answer."""

    @property
    def recorded(self) -> bool:
        """Whether anything fills the field."""
        return self.answer is not None or self.stated is not None


@dataclass(frozen=True)
class Cover:
    """A line of the cover; its value is None where it is not recorded."""

    title: str
    value: str | None
    remedy: str = ""


@dataclass(frozen=True)
class Annex:
    """A filled form."""

    kind: AnnexKind
    form: Form
    cover: tuple[Cover, ...]
    entries: tuple[Entry, ...]
    report_digest: str
    version: str
    """The Caveat that made the report."""

    @property
    def missing(self) -> list[Entry]:
        """The fields that nothing fills."""
        return [entry for entry in self.entries if not entry.recorded]


class UnknownFieldError(ValueError):
    """A filing names fields that the form does not have."""

    def __init__(self, names: list[str], known: list[str]) -> None:
        super().__init__(f"The form has no field '{names[0]}'")
        self.names = names
        self.known = known


def annex(kind: AnnexKind, form: Form, fills: Mapping[str, Fill], material: Material) -> Annex:
    """Fills a form; raises UnknownFieldError where the filing names a field that the form does not have."""
    known = [field.id for field in form.fields]
    if unknown := [name for name in material.filing.fields if name not in known]:
        raise UnknownFieldError(unknown, known)
    report_digest = digest(material.report)
    return Annex(
        kind=kind,
        form=form,
        cover=tuple(_cover(material, report_digest)),
        entries=tuple(_entry(field, fills.get(field.id), material) for field in form.fields),
        report_digest=report_digest,
        version=material.report.engine.caveat,
    )


def _entry(field: Field, fill: Fill | None, material: Material) -> Entry:
    found = Missing("A report cannot know this") if fill is None else fill(material)
    stated = material.filing.fields.get(field.id)
    if isinstance(found, Missing):
        return Entry(field, None, stated, f"{found.remedy}; state it under `fields: {field.id}:`.")
    return Entry(field, found, stated, None)


def _cover(material: Material, report_digest: str) -> Iterator[Cover]:
    report, signature = material.report, material.signature
    about = report.audit.about
    yield Cover("Model", None if about is None else about.title, "Give `about: title` in the audit.")
    yield Cover("Digest of the model", report.audit.model)
    yield Cover("Owner", None if about is None else about.owner, "Give `about: owner` in the audit.")
    signed = "Pass the attestation, and the public key that verifies it."
    yield Cover("Date of the audit", None if signature is None else _day(signature.run), signed)
    yield Cover("Digest of the report", report_digest)
    keys = None if signature is None else ", ".join(f"valid, by the key {keyid}" for keyid in signature.keyids)
    yield Cover("Signature of the report", keys, signed)


def _day(run: Run) -> str:
    """`2026-03-02 (10:15 to 10:20 UTC)`."""
    return f"{run.started_at:%Y-%m-%d} ({run.started_at:%H:%M} to {run.finished_at:%H:%M} UTC)"


def date_of_the_audit(material: Material) -> Answer | Missing:
    """When the audit ran, from its verified attestation."""
    if material.signature is None:
        return Missing("A report holds no clock: pass its attestation and the public key")
    return Answer("attestation: /predicate/run/started_at", (_day(material.signature.run),))
