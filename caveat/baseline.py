"""The earlier report that a new one is compared with: a file, or the last one on the service that passed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from api_spec.audit import Audit, ConceptLine
from api_spec.report import Report
from caveat.client import Client

LAST = Path("last")
"""What names the last passing report on the service; a file of that name is `./last`."""
LOOKED_AT = 200
"""Audits on the service, the newest first, among which one that passed is looked for."""


def last_passing(url: str, key: str | None, audit: Audit) -> Report | None:
    """The newest report on the service that asked the same of the same examples, of whatever model, and passed.

    Lines that say `must: not_grow` do not count: the service decides without a baseline, so there they are open.
    """
    with Client(url, key) as client:
        for record in islice(client.audits(state="succeeded"), LOOKED_AT):
            if record.outcome in ("pass", "inconclusive") and _question(record.audit) == _question(audit):
                report = client.report(record.id)
                if _passes(report):
                    return report
    return None


def _question(audit: Audit) -> tuple[object, ...]:
    return audit.examples, audit.concepts, audit.targets, audit.groups


def _passes(report: Report) -> bool:
    growing = {
        position
        for position, line in enumerate(report.audit.gate)
        if isinstance(line, ConceptLine) and line.must == "not_grow"
    }
    return all(line.outcome == "pass" or line.line in growing for line in report.verdict.lines)
