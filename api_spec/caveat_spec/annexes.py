"""Annexes: published forms that a report can fill, one row each.

An annex's form and its fields are in the module of its name in `caveat_reports.annexes`. Help lists the rows, so this
module imports no model of a document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AnnexKind = Literal["ll144", "annex-iv", "model-card", "sr-11-7"]


@dataclass(frozen=True)
class AnnexRow:
    """One kind of annex."""

    kind: AnnexKind
    words: str
    """What it is, for help."""


ANNEXES = (
    AnnexRow("ll144", "summary of a bias audit under New York City's Local Law 144"),
    AnnexRow("annex-iv", "technical documentation under Annex IV of the EU AI Act"),
    AnnexRow("model-card", "model card (Mitchell et al. 2019)"),
    AnnexRow("sr-11-7", "model risk summary after SR 11-7"),
)
