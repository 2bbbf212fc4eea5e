"""The registry of explanations: one row each. The mathematics is a function of the same name in the engine.

What its parts have to add up to is the row's `relation`, with the paper that it comes from; the engine checks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from caveat_spec.base import Document

Needs = Literal["gradient", "outputs"]
"""What an explanation asks of a model: derivatives, or nothing but its outputs."""


class OfLayer(Document):
    """Options of an explanation that can be asked of the input or of a layer."""

    layer: str = "input"
    """The tensor that is explained: `input`, or a layer of the model."""


@dataclass(frozen=True)
class ExplanationEntry:
    """One explanation that an audit can show."""

    name: str
    summary: str
    """What it answers, in one sentence."""
    module: str
    """Where its function is, under the explanation's name; imported when an audit runs, never by the API."""
    needs: Needs
    relation: str
    """What its parts add up to, or how they relate to the model, and where that is from."""
    options: type[Document] = OfLayer


EXPLANATIONS = (
    ExplanationEntry(
        "saliency",
        "Shows where a small change of the input would change the target most.",
        module="caveat_worker.engine.explanations.saliency",
        needs="gradient",
        relation="|∂S/∂x|, the largest over colours (Simonyan et al. 2013)",
    ),
    ExplanationEntry(
        "gradient_x_input",
        "Multiplies each input by the target's derivative there: its share, if the model was linear.",
        module="caveat_worker.engine.explanations.gradient_x_input",
        needs="gradient",
        relation="Σ x·∂S/∂x + Σ b·∂S/∂b = S for piecewise linear models with biases b (Shrikumar et al. 2016)",
    ),
)


def explanations() -> dict[str, ExplanationEntry]:
    """Every explanation by its name."""
    return {entry.name: entry for entry in EXPLANATIONS}
