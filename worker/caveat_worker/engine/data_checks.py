"""What silently goes wrong with the examples of an audit: sentences for its report, never a refusal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from caveat_spec.audit import Audit, Images, Preprocess
from caveat_spec.cautions import own_scaling
from caveat_worker.engine.activations.collected import Collected
from caveat_worker.engine.activations.requirements import Outputs, Requirement
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Resolved
from caveat_worker.engine.onnx.pixel_unit import brightest_pixel
from caveat_worker.engine.statistics.scale import varies

MOST_CLASSES = 5_000
"""Outputs of more scores than this are not kept to see which class is the commonest."""
BRIGHTEST = 255
WIDEST, NARROWEST = 1.5 * BRIGHTEST, 0.1
"""Ranges of a preprocessed picture beyond which its pixels were scaled twice, or by the wrong unit."""


def required_to_check(audit: Audit, resolved: Mapping[str, Resolved]) -> list[Requirement]:
    """What the checks read beside what the methods do: the scores of all classes at the targets' examples."""
    known = all((target.classes or MOST_CLASSES + 1) <= MOST_CLASSES for target in resolved.values())
    return [Outputs(at=("target",))] if audit.concepts and audit.test_concepts and known else []


def commonest_class(collected: Collected, target: str) -> int | None:
    """The class with the highest score at most examples of a target; None for a single score, or if none was kept."""
    decided = _decided(collected, target)
    return None if decided is None else int(np.bincount(decided).argmax())


def check_examples(collected: Collected) -> Iterator[str]:
    """A sentence for each preprocessing and target that looks like a mistake."""
    plan = collected.plan
    for name, examples in plan.audit.examples.items():
        if isinstance(examples, Images):
            yield from _check_pixels(name, examples.preprocess)
            yield from _check_scaling(name, examples.preprocess, plan.model)
    for name in plan.resolved:
        yield from _check_target(collected, name)


def _check_pixels(name: str, how: Preprocess) -> Iterator[str]:
    """Means and deviations for pixels of 0 to 1, which Caveat's pixels of 0 to 255 exceed, and the reverse."""
    mean, std = np.broadcast_arrays(np.atleast_1d(how.mean), np.atleast_1d(how.std))
    low, high = (0 - mean) / std, (BRIGHTEST - mean) / std
    given = f"'preprocess' of '{name}' has mean {_listed(how.mean)} and std {_listed(how.std)}"
    if (np.abs(high - low) > WIDEST).any() or ((mean > 0) & (mean < 1)).any():
        yield (
            f"{given}, which look like those of pixels from 0 to 1: they are 0 to {BRIGHTEST} here, so the model sees "
            f"values from {low.min():.4g} to {high.max():.4g}. Multiply both by {BRIGHTEST}."
        )
    elif (np.abs(high - low) < NARROWEST).any() or (mean > BRIGHTEST).any():
        yield (
            f"{given}, which do not look like those of pixels from 0 to {BRIGHTEST}: the model sees values from "
            f"{low.min():.4g} to {high.max():.4g} only. Divide both by {BRIGHTEST} if they were multiplied twice."
        )


def _check_scaling(name: str, how: Preprocess, model: Model) -> Iterator[str]:
    """Pixels that are scaled for a model whose graph begins with scaling them."""
    graph = model.ir.graph
    brightest = brightest_pixel(graph.inputs[0]) if len(graph.inputs) == 1 else None
    if brightest is None:
        return
    low, high = ((pixel - np.asarray(how.mean)) / np.asarray(how.std) for pixel in (0, BRIGHTEST))
    if np.allclose(high - low, brightest, rtol=0.05):
        return
    yield (
        f"{own_scaling(name, BRIGHTEST / brightest)}: its first steps are made for pixels of 0 to {brightest:g}, and "
        f"it sees values from {low.min():.4g} to {high.max():.4g}."
    )


def _check_target(collected: Collected, name: str) -> Iterator[str]:
    """A target that is constant, or a class that no example gets."""
    if not collected.knows_values(name):
        return
    plan, values = collected.plan, collected.values(name)
    examples = plan.audit.targets[name].examples
    if len(values) > 1 and not varies(values):
        but_for = ", but for rounding" if np.ptp(values) else ""
        yield (
            f"Target '{name}' is {values[0]:.6g} at all {len(values)} examples of '{examples}'{but_for}: nothing can "
            "be seen to influence it, and standard deviations of it mean nothing. Check the preprocessing, that the "
            "examples differ, and that the exported model reads them."
        )
        return
    decided, asked = _decided(collected, name), plan.targets[name].index
    if decided is not None and asked is not None and asked not in decided:
        commonest = np.bincount(decided).argmax()
        share = int((decided == commonest).sum())
        yield (
            f"The model gives class {asked} to none of the {len(decided)} examples of '{examples}', and class "
            f"{commonest} to {share}: a change of target '{name}' there may change no decision. Check the class, or "
            "give the target examples of it."
        )


def _decided(collected: Collected, name: str) -> NDArray[np.int64] | None:
    """The class [n] with the highest score at each example of a target; None where the output has no such classes."""
    plan, resolved = collected.plan, collected.plan.resolved[name]
    scores = collected.arrays.get(("outputs", plan.audit.targets[name].examples, name))
    if scores is None or resolved.classes == 1 or resolved.link in ("sigmoid", "values"):
        return None
    decided = scores.argmax(1) if scores.shape[1] > 1 else scores[:, 0] > 0
    return np.asarray(decided, dtype=np.int64)


def _listed(numbers: float | list[float]) -> str:
    return f"{numbers:g}" if isinstance(numbers, float) else f"[{', '.join(f'{one:g}' for one in numbers)}]"
