"""The audited model beside another version of it, over the same examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caveat_spec.audit import OtherVersion
from caveat_spec.results import Estimate, VersionAgreement, VersionComparison, VersionLayer, rounded
from caveat_worker.engine.activations.batches import Batch
from caveat_worker.engine.activations.gram import gram
from caveat_worker.engine.activations.pooling import marked, scores
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.autodiff.channels import channels_of
from caveat_worker.engine.autodiff.differentiate import differentiate, find_layer
from caveat_worker.engine.autodiff.layers import choose_layers
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Resolved, resolve_target
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.base.errors import InvalidInput, error_context
from caveat_worker.engine.onnx.graph import TensorInfo
from caveat_worker.engine.onnx.session import Provider, open_session
from caveat_worker.engine.statistics.intervals import mean_interval
from caveat_worker.engine.statistics.proportions import exact_interval
from caveat_worker.engine.statistics.scale import scale
from caveat_worker.engine.versions.alignment import FEWEST, by_channel, debiased_cka, match_channels

MOST_EXAMPLES = 1_000
"""Examples over which layers are compared; decisions are compared over all."""
LAYER_BYTES = 1 << 28
"""What memory holds of one layer of one version; a larger layer is compared over fewer examples."""
Batches = Callable[[str, int], Iterable[Batch]]
"""(example set, batch size) → its batches."""
Labels = Callable[[str, str], AnyArray]
"""(example set, column) → its values [n]."""


@dataclass(frozen=True)
class Examined:
    """What one version gives at one example set."""

    resolved: Mapping[str, Resolved]
    """Target → how it is read from this version."""
    values: Mapping[str, Float64Array]
    """Target → its number [n]."""
    scores: Mapping[str, Float64Array]
    """Target → the scores that it is read from [n, classes]."""
    layers: Mapping[str, AnyArray]
    """Layer → its activations at the first examples [n, …, channels]."""


def check_version(name: str, asked: OtherVersion, model: Model, other: Model) -> None:
    """Raises InvalidInput, pointing to the version, where it does not take the inputs of the audited model."""
    here, there = (", ".join(_words(one) for one in each.inputs) for each in (model, other))
    if len(model.inputs) != len(other.inputs) or not all(map(_alike, model.inputs, other.inputs)):
        raise InvalidInput(
            "other-inputs",
            f"The version '{name}' takes {there}; the audited model takes {here}.",
            "Compare versions that read the same examples.",
            f"/compare/{name}/model",
        )
    for own, its in asked.layers.items():
        for field, version, layer in (("layers", model, own), ("layers", other, its)):
            with error_context(f"/compare/{name}/{field}"):
                find_layer(version, layer)


def compare_versions(
    plan: Plan,
    others: Mapping[str, Model],
    batches: Batches,
    labels: Labels,
    *,
    provider: Provider = "cpu",
) -> list[VersionComparison]:
    """Every other version that the audit names, beside the audited model."""
    return [
        rounded(_compared(plan, name, plan.audit.compare[name], other, batches, labels, provider))
        for name, other in others.items()
    ]


def _compared(
    plan: Plan,
    name: str,
    asked: OtherVersion,
    other: Model,
    batches: Batches,
    labels: Labels,
    provider: Provider,
) -> VersionComparison:
    layers, left_out = _layers(plan, asked, other)
    sets = plan.audit.compared_sets(name)
    agreements, aligned = [], []
    for position, examples in enumerate(sets):
        kept = layers if position == 0 else {}
        with error_context(f"/compare/{name}"):
            its = _examined(plan, other, list(kept.values()), batches, examples, provider)
        own = _examined(plan, plan.model, list(kept), batches, examples, provider)
        truth = None if asked.label is None else labels(examples, asked.label)
        agreements += [
            agreement_of(target, examples, own, its, truth, plan.audit.method.alpha) for target in plan.targets
        ]
        aligned += [_aligned(layer, its_name, own, its) for layer, its_name in kept.items()]
    notes = [f"The version has no tensor '{layer}', so that layer was not compared." for layer in left_out]
    return VersionComparison(name=name, model=asked.model, agreements=agreements, layers=aligned, notes=notes)


def _layers(plan: Plan, asked: OtherVersion, other: Model) -> tuple[dict[str, str], list[str]]:
    """The audit's layers with the other version's names for them, and those that it does not have."""
    own = [layer.tensor for layer in plan.layers]
    if not own and isinstance(plan.audit.layers, str):
        own = list(choose_layers(plan.model, next(iter(plan.targets.values()))))
    elif not own:
        own = [find_layer(plan.model, choice.tensor) for choice in plan.audit.layers if not isinstance(choice, str)]
    renamed = {find_layer(plan.model, layer): find_layer(other, its) for layer, its in asked.layers.items()}
    named = {tensor: renamed.get(tensor, tensor) for tensor in dict.fromkeys([*own, *renamed])}
    found = {tensor: its for tensor, its in named.items() if other.value(its) is not None}
    return found, [tensor for tensor in named if tensor not in found]


def _examined(
    plan: Plan, model: Model, layers: Sequence[str], batches: Batches, examples: str, provider: Provider
) -> Examined:
    """Runs one version over an example set."""
    resolved = {name: resolve_target(model, target) for name, target in plan.targets.items()}
    read = [*layers, *(one.tensor for one in resolved.values())]
    session = open_session(differentiate(model, [], list(plan.targets.values()), also=read), provider=provider)
    values: dict[str, list[AnyArray]] = {name: [] for name in plan.targets}
    outputs: dict[str, list[AnyArray]] = {name: [] for name in plan.targets}
    kept: dict[str, list[AnyArray]] = {name: [] for name in layers}
    size = 16 if model.symbolic_batch and plan.model.symbolic_batch else 1
    for batch in batches(examples, size):
        found = session.run(plan.feeds(batch.values))
        for name, target in plan.targets.items():
            raw = found[resolved[name].tensor]
            values[name].append(found[f"value/{name}"].reshape(-1).astype(np.float64))
            tokens = marked(batch.values, resolved[name].mask)
            outputs[name].append(scores(raw, target.reduce, target.axis(raw.ndim), tokens).astype(np.float64))
        for name in layers:
            tensor = find_layer(model, name)
            a = found[tensor]
            if batch.start < _most_examples(a):
                kept[name].append(np.moveaxis(a, channels_of(model, tensor, a.ndim), -1))
    return Examined(
        resolved,
        {name: np.concatenate(parts) for name, parts in values.items()},
        {name: np.concatenate(parts) for name, parts in outputs.items()},
        {name: np.concatenate(parts) for name, parts in kept.items()},
    )


def _most_examples(activations: AnyArray) -> int:
    """Over how many examples a layer with such activations [n, …] is compared."""
    return min(MOST_EXAMPLES, max(FEWEST, LAYER_BYTES * len(activations) // max(activations.nbytes, 1)))


def agreement_of(
    target: str, examples: str, own: Examined, its: Examined, truth: AnyArray | None, alpha: float
) -> VersionAgreement:
    """One target at one set: whether decisions agree, how the number moved, and who is right where that is known."""
    now, then = own.values[target], its.values[target]
    change, spread = now - then, scale(then) or 1.0
    mine, other = (decisions(each.scores[target], each.resolved[target]) for each in (own, its))

    def share(hits: AnyArray) -> Estimate:
        count, n = int(hits.sum()), len(hits)
        return Estimate(value=count / n, interval=exact_interval(count, n, alpha))

    def right(each: Examined, decided: AnyArray | None) -> Estimate | None:
        if truth is None or decided is None:
            return None
        alone = each.resolved[target].link == "sigmoid" and each.scores[target].shape[1] > 1
        wanted = truth == (each.resolved[target].target.index or 0) if alone else truth
        return share(np.asarray(decided == wanted))

    return VersionAgreement(
        target=target,
        examples=examples,
        n=len(now),
        same_decision=None if mine is None or other is None else share(np.asarray(mine == other)),
        change=Estimate(value=float(change.mean()), interval=mean_interval(change, alpha)),
        change_in_sd=float(change.mean()) / spread,
        typical_change_in_sd=float(np.sqrt((change**2).mean())) / spread,
        accuracy=right(own, mine),
        accuracy_other=right(its, other),
    )


def decisions(found: Float64Array, resolved: Resolved) -> AnyArray | None:
    """What scores [n, classes] decide: the top class, or whether a single one is favourable; None for a regression."""
    if resolved.link == "values":
        return None
    if found.shape[1] > 1 and resolved.link != "sigmoid":
        return np.asarray(found.argmax(1))
    column = found[:, (resolved.target.index or 0) if found.shape[1] > 1 else 0]
    return np.asarray(column > (0.5 if resolved.link == "probabilities" else 0.0)).astype(int)


def _aligned(layer: str, other: str, own: Examined, its: Examined) -> VersionLayer:
    """How alike a layer is in the two versions."""
    n = min(len(own.layers[layer]), len(its.layers[other]))
    mine, theirs = own.layers[layer][:n], its.layers[other][:n]
    cka = debiased_cka(*(gram(each.reshape(len(each), -1)) for each in (mine, theirs)))
    comparable = mine.shape[1:-1] == theirs.shape[1:-1]
    matching = match_channels(by_channel(mine), by_channel(theirs)) if comparable else None
    return VersionLayer(
        layer=layer,
        other=other,
        n=n,
        cka=cka,
        channels=0 if matching is None else matching.channels,
        matched=None if matching is None else matching.matched,
        median_correlation=None if matching is None else matching.median,
    )


def _words(one: TensorInfo) -> str:
    sizes = " x ".join("?" if not isinstance(size, int) else str(size) for size in one.shape[1:])
    return f"'{one.name}' {sizes} of {one.dtype}"


def _alike(own: TensorInfo, its: TensorInfo) -> bool:
    """Whether two inputs have one name, one type, and sizes that agree where both are fixed."""
    pairs = zip(own.shape[1:], its.shape[1:], strict=False)
    fits = all(not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in pairs)
    return (own.name, own.dtype) == (its.name, its.dtype) and len(own.shape) == len(its.shape) and fits
