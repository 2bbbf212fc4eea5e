"""A measured claim as a row of a page: the bound that it has to keep, and what was found."""

from __future__ import annotations

from dataclasses import dataclass

from bench.page import yes


@dataclass(frozen=True)
class Row:
    """A claim, the bound that it has to keep, and what was found."""

    block: str
    claim: str
    bound: str
    found: str
    met: bool | None
    """None where nothing was promised."""

    def cells(self) -> list[str]:
        return [self.block, self.claim, self.bound, self.found, "" if self.met is None else yes(self.met)]


def at_most(block: str, claim: str, bound: float, found: float, form: str = "{:.1e}") -> Row:
    return Row(block, claim, f"≤ {bound:g}", form.format(found), found <= bound)


def at_least(block: str, claim: str, bound: float, found: float, form: str = "{:.4f}") -> Row:
    return Row(block, claim, f"≥ {bound:g}", form.format(found), found >= bound)
