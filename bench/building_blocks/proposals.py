"""What else a model leans on: planted shortcuts among the first proposals, and null models with any."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from bench import discovery
from bench.rows import Row, at_least, at_most


def proposals(planted: str) -> Iterator[Row]:
    """A planted shortcut among the first three proposals, and null models with any; no bound where nothing is named."""
    cases = {planted: (discovery.CASES | discovery.UNNAMED)[planted]}
    ((_, hits, seeds, alarms, nulls),) = discovery.rows(cases=cases)
    found = f"{planted}, without a name: among the first three, share of {seeds} seeds"
    peace = f"{planted}: share of {nulls} null models with a proposal"
    if planted in discovery.UNNAMED:
        yield Row("`discover`", found, "", f"{hits / seeds:.2f}", None)
        yield Row("`discover`", peace, "", f"{alarms / nulls:.2f}", None)
        return
    yield at_least("`discover`", found, 0.9, hits / seeds, "{:.2f}")
    if planted == discovery.ON_PHOTOGRAPHS:
        yield from without_the_mark(alarms, nulls)
    else:
        yield at_most("`discover`", peace, 0.05, alarms / nulls, "{:.2f}")
    shares = discovery.gone(planted)
    claim = f"{planted}: share of its effect that is gone with its direction held, median of {len(shares)}; from, to"
    yield Row("`discover`", claim, "", f"{median(shares):.2f}; {min(shares):.2f}, {max(shares):.2f}", None)


def without_the_mark(alarms: int, audits: int) -> Iterator[Row]:
    """Audits of a network that leans on more than the mark: whether what they propose holds, and where nothing can."""
    found, about = discovery.null_photographs(audits), discovery.ON_PHOTOGRAPHS
    proposed = f"{about}: share of {audits} audits without that mark with a proposal"
    yield Row("`discover`", proposed, "", f"{alarms / audits:.2f}", None)
    wrong = f"{about}: the same audits, with a proposal that crops which none of them saw do not confirm"
    yield at_most("`discover`", wrong, 0.05, found.unconfirmed / audits, "{:.2f}")
    if found.shares:
        claim = f"{about}: effects there, of those that were said, median of {len(found.shares)} proposals; from, to"
        there = f"{median(found.shares):.2f}; {min(found.shares):.2f}, {max(found.shares):.2f}"
        yield Row("`discover`", claim, "", there, None)
    dealt = f"{about}: share of {audits} null audits with a proposal, the logits dealt out within each photograph"
    yield at_most("`discover`", dealt, 0.05, found.dealt / audits, "{:.2f}")
