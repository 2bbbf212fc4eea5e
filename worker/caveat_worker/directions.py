"""The story of a direction: read, plan, collect, and turn each concept into a vector of its layer."""

from __future__ import annotations

import base64
import os
from functools import partial

import numpy as np

from caveat_spec.artifacts import STAGES, ConceptDirection, Directions, WatchCheck
from caveat_spec.jobs import NewDirections
from caveat_worker.array_stores import scratch
from caveat_worker.engine.acting.directions import Direction, directions_method
from caveat_worker.engine.acting.directions import find_directions as find
from caveat_worker.engine.acting.monitor import WATCHED, Watched, monitoring_graph, score_name, sensitivity_name
from caveat_worker.engine.activations.collected import Collected, Runtime
from caveat_worker.engine.base.arrays import AnyArray
from caveat_worker.engine.onnx.session import open_session
from caveat_worker.loading import Blob
from caveat_worker.pipeline import Prepared, collect_examples, prepare
from caveat_worker.progress import Progress
from caveat_worker.readers.batching import batches, each_batch

WATCHED_AT_ONCE = 16
"""Examples that go through a monitoring model at a time while it is checked."""


def find_directions(request: NewDirections, blob: Blob, progress: Progress, *, threads: int = 0) -> Directions:
    """The directions of an audit's concepts at its layers; raises InvalidInput for an audit that cannot be run."""
    with scratch() as kept:
        ready = prepare(request.audit, blob, progress, kept, methods=[directions_method(watch=request.watch)])
        collected = collect_examples(ready, progress, kept, threads=threads)
        cores = threads or os.cpu_count() or 1
        runtime = Runtime(store=kept, read=partial(each_batch, ready.sources), threads=threads, cores=cores)
        found = find(collected, runtime, watch=request.watch)
        plan = collected.plan
        progress("reporting", STAGES["reporting"])
        return Directions(
            directions=[_document(one) for one in found],
            layers=[layer.name for layer in plan.layers],
            targets=list(plan.targets),
            check=_check(ready, collected, found) if request.watch else None,
            warnings=list(plan.warnings),
        )


def _document(one: Direction) -> ConceptDirection:
    mean, sd = one.centre
    return ConceptDirection(
        concept=one.concept,
        layer=one.layer.name,
        tensor=one.layer.tensor,
        reduce=one.layer.reduce,
        shape=list(one.vector.shape),
        values=base64.b64encode(one.vector.astype("<f4").tobytes()).decode(),
        step=one.step,
        origin=one.origin,
        mean=mean,
        sd=sd,
        n_concept=one.n_concept,
        n_reference=one.n_reference,
    )


def _check(ready: Prepared, collected: Collected, found: list[Direction]) -> WatchCheck:
    """Runs the monitoring model over the first target's examples, and compares it with the audit's own numbers."""
    plan = collected.plan
    first = next(iter(plan.audit.targets.values())).examples
    targets = [target for name, target in plan.targets.items() if plan.audit.targets[name].examples == first]
    graph = monitoring_graph(plan.model, [Watched.of(one) for one in found], targets)
    session = open_session(graph, threads=1)
    size = WATCHED_AT_ONCE if plan.model.symbolic_batch else 1
    parts: dict[str, list[AnyArray]] = {}
    for batch in batches(ready.sources[first], size):
        for name, array in session.run(plan.feeds(batch.values)).items():
            if name.startswith(WATCHED):
                parts.setdefault(name, []).append(array.reshape(-1))
    watched = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    score, sensitivity = 0.0, 0.0
    for one in found:
        score = max(score, float(np.abs(watched[score_name(one.concept, one.layer.name)] - one.scores).max()))
        for target in targets:
            own = one.sensitivities(collected.arrays["gradients", first, target.name, one.layer.name])
            other = watched[sensitivity_name(one.concept, target.name, one.layer.name)]
            sensitivity = max(sensitivity, float(np.abs(other - own).max() / (np.abs(own).max() or 1.0)))
    return WatchCheck(examples=len(ready.sources[first]), score_error=score, sensitivity_error=sensitivity)
