"""What methods are given: the plan, everything that was collected for it, and the means to compute with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.activations.array_keys import Array
from caveat_worker.engine.activations.batches import Read
from caveat_worker.engine.activations.gram import Product, inner
from caveat_worker.engine.activations.requirements import Layer, Plan
from caveat_worker.engine.activations.target_values import Link, are_probabilities, target_value
from caveat_worker.engine.autodiff.gradient_check import GradientCheck
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import error_context
from caveat_worker.engine.base.store import ArrayStore, Evicted
from caveat_worker.engine.onnx.session import Provider

Columns = Callable[[Sequence[str]], Mapping[str, NDArray[Any]]]
"""Names of a table's columns → their values [n]."""


def ignore(_: int) -> None:
    """Progress that nobody follows."""


@dataclass(frozen=True)
class Examples:
    """What is known of an example set without the model."""

    names: Sequence[str]
    columns: Columns | None = None
    """The columns of its table, where it is one."""


@dataclass(frozen=True)
class Runtime:
    """The means to compute: where arrays are kept, how batches are read, and with how many threads."""

    store: ArrayStore
    read: Read
    threads: int
    """0 for one thread for each core."""
    cores: int
    """How many threads that is."""
    provider: Provider = "cpu"
    multiply: Callable[[Sequence[Product], int], None] = inner
    """Computes inner products with so many threads."""
    progress: Callable[[int], None] = ignore
    """Counts units of a method's work."""
    later: list[StepDirection] | None = None
    """Where a method leaves finite steps that may turn out not to be needed; None where it takes them itself."""


@dataclass(frozen=True)
class StepDirection:
    """The step from the reference's mean to the concept's at a layer, `Xᵀα`, less what it controls for."""

    concept: str
    layer: Layer
    alpha: Float64Array = field(repr=False)  # [N]


@dataclass(frozen=True)
class Collected:
    """What the model did with the examples of a plan."""

    plan: Plan
    keys: Mapping[Array, str]
    arrays: Mapping[Array, NDArray[Any]]
    """Activations and gradients are here only where they, or an inner product of theirs, are not in the store."""
    features: Mapping[str, int]
    """Layer → how many features it has."""
    checks: tuple[GradientCheck, ...]
    examples: Mapping[str, Examples] = field(default_factory=dict)

    def values(self, target: str) -> Float64Array:
        """A target's number h [m] at its own examples."""
        examples = self.plan.audit.targets[target].examples
        found = self.arrays.get(("values", examples, target))
        return self.target_values(examples, target) if found is None else found

    def knows_values(self, target: str) -> bool:
        """Whether the target's examples went through the model."""
        examples = self.plan.audit.targets[target].examples
        return ("values", examples, target) in self.arrays or ("outputs", examples, target) in self.arrays

    def outputs(self, examples: str, target: str) -> Float64Array:
        """The whole tensor [n, classes] that a target is read from, at any set whose outputs were required."""
        return self.arrays["outputs", examples, target]

    def target_values(self, examples: str, target: str) -> Float64Array:
        """A target's number h [n] at any set whose outputs were required."""
        asked = self.plan.targets[target]
        found = self.arrays.get(("values", examples, target))
        if found is not None and asked.reduce is not None:
            return found
        scores, link = self.scores(examples, target), self.link(target)
        with error_context(f"/targets/{target}", "index", "scale"):
            return target_value(scores, asked.index, asked.versus, asked.scale, link)

    def scores(self, examples: str, target: str) -> Float64Array:
        """The scores behind a target: [n, classes] where classes compete, [n] where a class has its own."""
        return self.scores_of(self.outputs(examples, target), target)

    def scores_of(self, output: Float64Array, target: str) -> Float64Array:
        """The same from the tensor [n, classes] that the target is read from."""
        index = self.plan.targets[target].index
        link = self.plan.resolved[target].link
        if link == "two_sigmoids":
            return (output if index == 1 else -output)[:, 0]
        alone = link in ("sigmoid", "values") and self.plan.targets[target].versus is None
        return output[:, index or 0] if alone or output.shape[1] == 1 else output

    def link(self, target: str) -> Link | None:
        """How scores become probabilities: by the model's own link, or softmax for several classes without one.

        None for a single number without a link, and for numbers of a regression.
        """
        resolved = self.plan.resolved[target]
        match resolved.link:
            case "none":
                outputs = [array for (kind, *of), array in self.arrays.items() if (kind, of[-1]) == ("outputs", target)]
                if resolved.classes == 1:
                    return None
                return "probabilities" if outputs and all(map(are_probabilities, outputs)) else "softmax"
            case "values":
                return None
            case "two_sigmoids":
                return "sigmoid"
            case link:
                return link

    def unit(self, target: str) -> str:
        """What a target's number is: its scale, or a probability where the model gives nothing else."""
        scale = self.plan.targets[target].scale
        if scale != "logit":
            return scale
        if self.plan.resolved[target].link == "values":
            return "unit"
        return "probability" if self.link(target) == "probabilities" else scale

    def threshold(self, target: str) -> float:
        """The value of a target over which a decision is favourable: half, for a probability."""
        return 0.5 if self.unit(target) == "probability" and self.plan.targets[target].versus is None else 0.0

    def array(self, array: Array, store: ArrayStore) -> NDArray[np.float32]:
        """Activations or gradients [n, d]; raises Evicted where the store no longer has them."""
        found = self.arrays.get(array)
        if found is None:
            found = store.get(self.keys[array])
        if found is None:
            raise Evicted
        return found

    def generator(self, *names: str) -> np.random.Generator:
        """Random draws of their own for each layer, concept and so on: one more of them does not change the others."""
        return generator(self.plan.audit.method.seed, *names)


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random draws of their own for whatever has these names."""
    words = np.frombuffer(hashlib.sha256("\0".join(names).encode()).digest(), np.uint32)
    return np.random.default_rng([seed, *words.tolist()])
