"""The earlier report to compare with: a file, or the newest one on the service that passed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from caveat_spec.audit import Audit, ConceptLine
from caveat_spec.report import Report
from caveat_spec.source_urls import addressed_digest

LAST = Path("last")
"""Stands for the newest passing report on the service; a file of that name is `./last`."""
SEARCHED_AUDITS = 200
"""How many of the newest audits on the service are searched for one that passed."""


def last_passing(url: str, key: str | None, audit: Audit) -> Report | None:
    """The newest passing report on the service about the same examples, concepts, targets and groups, of any model.

    Lines with `must: not_grow` are ignored: the service has no baseline, so they are inconclusive there.
    """
    from caveat.client import Client

    with Client(url, key) as client:
        for record in islice(client.audits(state="succeeded"), SEARCHED_AUDITS):
            if record.outcome in ("pass", "inconclusive") and _question(record.audit) == _question(audit):
                report = client.report(record.id)
                if _passes(report):
                    return report
    return None


def _question(audit: Audit) -> tuple[object, ...]:
    digests = {pointer: addressed_digest(source) for pointer, source in audit.sources().items()}
    audit = audit.with_sources(digests)
    return audit.examples, audit.concepts, audit.targets, audit.groups


def _passes(report: Report) -> bool:
    growing = {
        position
        for position, line in enumerate(report.audit.gate)
        if isinstance(line, ConceptLine) and line.must == "not_grow"
    }
    return all(line.outcome == "pass" or line.line in growing for line in report.verdict.lines)
