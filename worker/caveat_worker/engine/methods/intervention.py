"""Intervention: what adding a concept to the same examples does to a target, measured on matched pairs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from caveat_spec.methods import NoOptions
from caveat_spec.results import ConceptTest
from caveat_worker.engine.activations.collected import Collected, Runtime
from caveat_worker.engine.activations.requirements import Outputs, Pairing, Values
from caveat_worker.engine.concepts.counterfactual import measure_change
from caveat_worker.engine.methods import method


@method(requires=lambda _: (Outputs(at=("pairs",)), Values()))
def intervention(collected: Collected, runtime: Runtime, options: NoOptions) -> Iterator[ConceptTest]:
    """The paired change of each target, for each concept whose examples have matched pairs without it."""
    plan = collected.plan
    settings = plan.audit.method
    for concept, pairing in plan.pairings.items():
        with_concept, without = list(pairing.with_concept), list(pairing.without)
        for name, target in plan.targets.items():
            figures = measure_change(
                collected.target_values(pairing.base, name)[without],
                collected.target_values(pairing.concept, name)[with_concept],
                over=collected.values(name),
                same_examples=_same_examples(collected, pairing, name),
                alpha=settings.alpha,
                permutations=settings.permutations,
                resamples=settings.bootstrap,
                rng=np.random.default_rng([settings.seed, *concept.encode(), 0, *name.encode()]),
                scores_without=collected.scores(pairing.base, name)[without],
                scores_with=collected.scores(pairing.concept, name)[with_concept],
                index=target.index,
                link=collected.link(name),
                decides=collected.plan.resolved[name].link != "values",
            )
            yield ConceptTest(
                method="intervention", evidence="intervention", concept=concept, target=name, **dict(figures)
            )


def _same_examples(collected: Collected, pairing: Pairing, target: str) -> bool:
    """Whether the pairs without the concept are the target's examples, in their order."""
    examples = collected.plan.audit.targets[target].examples
    return examples == pairing.base and list(pairing.without) == list(range(len(collected.values(target))))
