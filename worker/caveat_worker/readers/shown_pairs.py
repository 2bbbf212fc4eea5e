"""A few matched pairs of each concept, side by side: pictures as thumbnails, texts and rows by what differs in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from functools import partial

import numpy as np

from caveat_spec.audit import Audit
from caveat_spec.results import Difference, ShownPair, ShownPairs
from caveat_worker.engine.activations.requirements import Pairing
from caveat_worker.readers.source import ExampleSource

SHOWN = 4
"""Pairs shown of each concept, spread over the set."""
MOST_DIFFERENCES = 6
LONGEST = 80
"""Characters of a value or of words that differ."""

Thumbnail = Callable[[str, int], str | None]


def shown_pairs(
    audit: Audit, pairings: Mapping[str, Pairing], sources: Mapping[str, ExampleSource], thumbnail: Thumbnail
) -> list[ShownPairs]:
    """A few pairs of each concept; what differs in texts and rows only where the audit shows examples in full."""
    in_full = audit.method.pictures == "full"
    return [_shown(name, one, sources, thumbnail, in_full=in_full) for name, one in pairings.items()]


def _shown(
    concept: str, pairing: Pairing, sources: Mapping[str, ExampleSource], thumbnail: Thumbnail, *, in_full: bool
) -> ShownPairs:
    name, base = pairing.concept, pairing.base
    first, second = sources[base], sources[name]
    count = len(pairing.without)
    chosen = sorted({round(place) for place in np.linspace(0, count - 1, min(SHOWN, count))})
    return ShownPairs(
        concept=concept,
        without=base,
        with_concept=name,
        count=count,
        shown=[
            ShownPair(
                without=first.names[one],
                with_concept=second.names[other],
                thumbnail_without=thumbnail(base, one),
                thumbnail_with=thumbnail(name, other),
                differences=list(_differences(first, one, second, other)) if in_full else [],
            )
            for one, other in ((pairing.without[at], pairing.with_concept[at]) for at in chosen)
        ],
    )


def _differences(first: ExampleSource, one: int, second: ExampleSource, other: int) -> Iterator[Difference]:
    """What differs between two examples, the first few of it; nothing for pictures, which are shown."""
    match first.kind:
        case "text":
            found = _words(first, one, second, other)
        case "table":
            found = _columns(first, one, second, other)
        case "arrays":
            found = _numbers(first, one, second, other)
        case _:
            found = iter(())
    yield from (each for _, each in zip(range(MOST_DIFFERENCES), found, strict=False))


def _words(first: ExampleSource, one: int, second: ExampleSource, other: int) -> Iterator[Difference]:
    """Runs of tokens that differ, with the word before them."""
    assert first.parts is not None
    assert second.parts is not None
    before, after = (max(parts.values(), key=len) for parts in (first.parts(one), second.parts(other)))
    joined = partial(_joined, marked=any(token.startswith(_SPACES) for token in (*before, *after)))
    for kind, start, end, begin, stop in SequenceMatcher(a=before, b=after, autojunk=False).get_opcodes():
        if kind != "equal":
            what = f"after “{joined(before[max(0, start - 2) : start])}”" if start else "at the beginning"
            yield Difference(what=what, without=joined(before[start:end]), with_concept=joined(after[begin:stop]))


_SPACES = ("Ġ", "▁")
"""What stands for the space before a word in byte-level and SentencePiece vocabularies."""


def _joined(tokens: Iterable[str], *, marked: bool) -> str:
    """Tokens as words: pieces of WordPiece are put together, and, where spaces are marked, those between them."""
    if not marked:
        return _short(" ".join(tokens).replace(" ##", ""))
    text = "".join(tokens)
    for mark in _SPACES:
        text = text.replace(mark, " ")
    return _short(text.strip())


def _columns(first: ExampleSource, one: int, second: ExampleSource, other: int) -> Iterator[Difference]:
    """Columns whose values, as the model receives them, differ."""
    assert first.parts is not None
    loaded, changed = first.load([one]), second.load([other])
    for name, columns in first.parts(one).items():
        values = zip(columns, loaded[name].reshape(-1).tolist(), changed[name].reshape(-1).tolist(), strict=False)
        for column, without, having in values:
            if without != having and not (without != without and having != having):  # two missing values are alike
                yield Difference(what=column, without=_value(without), with_concept=_value(having))


def _numbers(first: ExampleSource, one: int, second: ExampleSource, other: int) -> Iterator[Difference]:
    """How many numbers of each input differ, and their mean."""
    loaded, changed = first.load([one]), second.load([other])
    for name, values in loaded.items():
        differs = values != changed[name]
        if differs.any():
            what = f"{int(differs.sum())} of {differs.size} numbers{f' of {name}' if name else ''}, their mean"
            means = (float(np.mean(each[differs])) for each in (values, changed[name]))
            yield Difference(**dict(zip(("what", "without", "with_concept"), (what, *map(_value, means)), strict=True)))


def _value(value: object) -> str:
    return _short(f"{value:.4g}" if isinstance(value, float) else str(value))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
