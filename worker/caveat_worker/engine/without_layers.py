"""What an audit still answers where a model has no layer to audit, in sentences for its reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from caveat_spec.audit import Audit, Table
from caveat_worker.engine.activations.requirements import Pairing
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.opaque import obstacle
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.errors import InvalidInput

_READS_WORDS = frozenset({"RegexFullMatch", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "Tokenizer"})
"""Operators that look inside a text, and not only at whether it is one of several categories."""


def sentences_without_layers(
    audit: Audit,
    model: Model,
    targets: Iterable[Target],
    pairings: Mapping[str, Pairing],
    left_out: Sequence[str],
    answering: Sequence[str],
) -> list[str]:
    """Which methods are left out and why, what the concepts rest on instead, and how to make pairs that are missing.

    Raises InvalidInput where no method is left to answer anything.
    """
    paired, unpaired = [name for name in audit.concepts if name in pairings], _unpaired(audit, pairings)
    said = no_layer(model, targets)
    if not answering:
        needed = "A direction of a concept needs a layer; `caveat gate` measures these concepts without one."
        how = f"Measure concepts by interventions: {_how(audit, model, unpaired)}" if unpaired else needed
        raise InvalidInput("no-layers", said, how, "/concepts")
    sentences = [f"{said} So association was left out ({', '.join(left_out)})."]
    if paired:
        sentences.append(f"{_listed(paired, 'and')} rest{_s(paired)} on the intervention on matched pairs alone.")
    if unpaired:
        sentences.append(f"{_listed(unpaired, 'and')} could not be tested; {_how(audit, model, unpaired)}")
    return sentences


def no_layer(model: Model, targets: Iterable[Target], *, repeats: bool = False) -> str:
    """That a model has no layer to audit, or only what `repeats` the scores, and what is in the way."""
    why = next((found for target in targets if (found := obstacle(model, target)) is not None), None)
    reason = why or "there is no layer between its inputs and its target"
    if repeats:
        return f"What can be audited is the scores by another name, and no layer before them can be: {reason}."
    return f"No layer inside this model can be audited: {reason}."


def _unpaired(audit: Audit, pairings: Mapping[str, Pairing]) -> list[str]:
    return [name for name in audit.concepts if name not in pairings]


def _how(audit: Audit, model: Model, concepts: Sequence[str]) -> str:
    """How to make matched pairs for some concepts, for the kind of examples that the first of them has."""
    examples = audit.concepts[concepts[0]].examples if concepts else next(iter(audit.examples))
    reversed_pair = next((one for one in audit.examples if audit.examples[one].pairs_with == examples), None)
    if reversed_pair is not None and reversed_pair in audit.concepts[concepts[0]].reference_sets:
        return (
            f"the set with the concept names the one without it, so move 'pairs_with' from '{reversed_pair}' to "
            f"'{examples}', as 'pairs_with: {reversed_pair}'."
        )
    is_table = isinstance(audit.examples[examples], Table)
    edit = _edited_rows(model) if is_table else "of copies of the same examples into which the concept was edited"
    return f"make '{examples}' an example set {edit}, and name the set without the concept in its 'pairs_with'."


def _edited_rows(model: Model) -> str:
    """How rows of a table are edited; 'set' writes one value into every row, which is no edit of a text."""
    by_set = "of the same rows with another value by 'set'"
    if not any(node.op_type in _READS_WORDS for node in model.ir.graph.all_nodes()):
        return by_set
    edited = "of the same rows from a file in which the concept was edited into each text"
    return edited if len(model.ir.graph.inputs) == 1 else f"{edited}, or {by_set} in a column without texts"


def _listed(names: Sequence[str], last: str) -> str:
    quoted = [f"'{name}'" for name in names]
    joined = f" {last} ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))
    return f"Concept{'s' * (len(names) > 1)} {joined}"


def _s(names: Sequence[str]) -> str:
    return "" if len(names) > 1 else "s"
