"""Annexes for a reviewer to file: published forms, each field filled from a report, stated by a person, or missing."""

from __future__ import annotations

from importlib import import_module

from caveat_reports.annexes.form import Annex, Fill, Form, Material, annex
from caveat_spec.annexes import AnnexKind


def fill(kind: AnnexKind, material: Material) -> Annex:
    """The annex of a kind; its form and its fields are in the module of that name."""
    module = import_module(f"caveat_reports.annexes.{kind.replace('-', '_')}")
    form: Form = module.FORM
    fills: dict[str, Fill] = module.FILLS
    return annex(kind, form, fills, material)
