"""Writes docs/grammar.md: what can be asked of explanations, each drawn as a figure or refused by a sentence.

python -m bench.grammar        every method, atoms and presentation on three small models (a minute)
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from bench.page import table
from caveat_reports.figures import draw
from caveat_spec.explain import PRESENTATIONS, Atoms, Presentation
from caveat_spec.explanations import EXPLANATIONS, ExplanationEntry
from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench

PAGE = Path(__file__).parent.parent / "docs" / "grammar.md"
DRAWN = "drawn"
SHOWN: tuple[Presentation, ...] = get_args(Presentation)


@dataclass(frozen=True)
class Substrate:
    """A small model with examples, and what its layers and sets are called."""

    title: str
    bench: Bench
    layer: str
    upper: str
    concept: str | None
    examples: str
    training: tuple[str, str] | None

    def options(self, entry: ExplanationEntry, layer: str | None, atoms: str | None) -> dict[str, Any] | None:
        """A method's options here; None where the substrate has nothing that it is about."""
        fields, asked = entry.options.model_fields, dict[str, Any]()
        if "concept" in fields:
            if self.concept is None:
                return None
            asked["concept"] = self.concept
        if "training" in fields:
            if self.training is None:
                return None
            asked |= dict(zip(("training", "labels"), self.training, strict=True))
        if "examples" in fields:
            asked["examples"] = self.examples
        if "upper" in fields:
            asked["upper"] = self.upper
        return asked | ({"layer": layer} if layer and "layer" in fields else {}) | ({"atoms": atoms} if atoms else {})


@dataclass
class Found:
    """What came of every combination on one substrate, with the sentences of those that were refused."""

    rows: list[tuple[str, str, dict[Presentation, str]]] = field(default_factory=list)
    sentences: dict[str, str] = field(default_factory=dict)

    def refused(self, sentence: str) -> str:
        """The letter of a sentence."""
        return next((letter for letter, one in self.sentences.items() if one == sentence), None) or self._new(sentence)

    def _new(self, sentence: str) -> str:
        number = len(self.sentences)
        letter = (chr(96 + number // 26) if number >= 26 else "") + chr(97 + number % 26)
        self.sentences[letter] = sentence
        return letter


def places(entry: ExplanationEntry) -> Iterator[tuple[str, str | None]]:
    """The tensors and the kinds of atoms that a method can be asked for, by its options."""
    fields = entry.options.model_fields
    if "atoms" in fields:
        kinds: tuple[Atoms, ...] = get_args(fields["atoms"].annotation)
        yield from (("layer", kind) for kind in kinds)
    elif "layer" in fields:
        if not fields["layer"].is_required():
            yield "input", None
        yield "layer", None
    else:
        yield "input", None


def substrates(folder: Path) -> Iterator[Substrate]:
    """Pictures with a concept, texts, and rows of a table whose labels are known."""
    from tests.audits.test_explain import labelled
    from tests.audits.test_explain_concepts import crosses_in
    from tests.audits.test_text import words_in

    for name in ("pictures", "texts", "rows"):
        (folder / name).mkdir()
    crosses = crosses_in(folder / "pictures")
    crosses.document["explain"]["where"]["examples"]["pick"] = ["3"]
    yield Substrate("A picture", crosses, "seen", "seen", "cross", "crossed", None)
    words = words_in(Bench(folder / "texts", {"model": "model.onnx", "test_concepts": False}))
    words.document.pop("gate")
    words.document["explain"] = {"where": {"of": "answer", "examples": {"set": "he", "count": 1}, "show": ["saliency"]}}
    yield Substrate("A text", words, "mixed", "state", "gender", "he", None)
    rows = labelled(folder / "rows")
    rows.document["explain"] = {"where": {"of": "approve", "examples": {"count": 1}, "show": ["saliency"]}}
    yield Substrate("A row of a table", rows, "scores", "scores", None, "people", ("people", "repaid"))


def combinations(one: Substrate) -> Found:
    """Every method at every kind of atoms in every presentation."""
    found = Found()
    one.bench.document["integrity"] = {"sanity": "none"}
    for entry in EXPLANATIONS:
        for where, kind in places(entry):
            layer = None if where == "input" and "layer" not in entry.options.model_fields else where
            options = one.options(entry, one.layer if layer == "layer" else layer, kind)
            cells: dict[Presentation, str] = {}
            for shown in SHOWN:
                if options is None:
                    cells[shown] = "–"
                    continue
                outcome = _outcome(one.bench, {"by": entry.name, "options": options, "as": shown})
                cells[shown] = DRAWN if outcome is None else found.refused(outcome)
            found.rows.append((entry.name, kind or ("pixels" if where == "input" else "positions"), cells))
    return found


def _outcome(bench: Bench, element: Mapping[str, Any]) -> str | None:
    """None where a figure was drawn as asked, else the sentence that stands in its place."""
    bench.document["explain"]["where"]["show"] = [dict(element)]
    try:
        (explained,) = bench.run().explanations
    except InvalidInput as refusal:
        return _reason(refusal)
    except ValidationError as error:
        return str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
    panel, figure = explained.figures[0]
    if figure.withheld is not None:
        return f"Withheld: {figure.withheld}"
    assert figure.presentation == element["as"], "as it was asked"
    assert draw(figure, panel, "p"), "every presentation draws what may be asked of it"
    return None


def _reason(refusal: InvalidInput) -> str:
    """The sentence of a refusal; where it is about a presentation, what is the same for all methods."""
    if refusal.code != "cannot-be-drawn-so":
        return refusal.sentence
    reason = refusal.sentence.partition(": ")[2]
    return reason[0].upper() + reason[1:]


def page(found: Mapping[str, Found]) -> str:
    """The page."""
    head = (
        "What can be asked of [explanations](explanations.md): every method, at every kind of atoms that it has, in "
        "every presentation, asked of three small models. *Drawn* is a figure that was computed and drawn; a letter "
        "is the sentence below the table that refuses it before anything runs, or that stands in its place because a "
        "check failed there; a dash, that these examples have nothing it is about (no concept, no labels). The words "
        "are those of *The Building Blocks of Interpretability* (Olah et al. 2018): a substrate, its atoms, a content "
        "and a presentation. Pictures that are made are [no part of an audit]"
        "(decisions/0092-made-pictures-are-no-part-of-a-report.md)."
    )
    filled = textwrap.fill(head, 112, break_long_words=False, break_on_hyphens=False)
    parts = ["# The grammar of explanations", "", "Generated by `make explain`.", "", filled, ""]
    suits = [[f"`{atoms}`", ", ".join(f"`{one}`" for one in shown)] for atoms, shown in PRESENTATIONS.items()]
    parts += [
        "Atoms, and how they may be shown where their layer has what that needs:",
        "",
        table(["atoms", "as"], suits),
    ]
    for title, one in found.items():
        lines = [[f"`{name}`", kind, *(cells[shown] for shown in SHOWN)] for name, kind, cells in one.rows]
        parts += [f"## {title}", "", table(["method", "atoms", *SHOWN], lines)]
        parts += [f"- **{letter}** {sentence}" for letter, sentence in one.sentences.items()] + [""]
    return "\n".join(parts)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(page({one.title: combinations(one) for one in substrates(Path(folder))}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
