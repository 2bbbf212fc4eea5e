"""A large audit in parts: divided, each part run by any worker, and put together as if one worker had done it all.

A part is some rows of some example sets on their way through the model. Rows do not depend on each other there, and
parts begin and end between batches, so each batch is the one that a single worker would have run, to the last bit.
Elements of explanations at some of their panels are parts too: each runs in one thread, and is found again by its key.
Everything else is computed once, by whoever puts the parts together, in the order in which it always is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import numpy as np

from caveat_spec.audit import Audit
from caveat_spec.jobs import MOST_SHARDS, Division, Panels, Rows, Shard, ShardResult
from caveat_spec.report import Report
from caveat_worker.array_stores import Whole
from caveat_worker.engine.activations.array_keys import piece_key
from caveat_worker.engine.activations.collect import collect_rows
from caveat_worker.engine.activations.division import divide
from caveat_worker.engine.base.store import ArrayStore, Evicted
from caveat_worker.engine.panels.division import divide_explanations
from caveat_worker.engine.panels.explain import explain_part
from caveat_worker.loading import Blob, loaded_key
from caveat_worker.pipeline import KeepMaps, OpenStore, Prepared, conclude, means_of, prepare, run
from caveat_worker.progress import Progress, counter
from caveat_worker.readers.batching import each_batch


def run_or_divide(
    audit: Audit,
    blob: Blob,
    progress: Progress,
    *,
    threads: int,
    store: OpenStore,
    batches: int,
    keep_maps: KeepMaps | None = None,
) -> Report | Division:
    """Runs an audit, or says how to divide it if more than so many batches have to go through the model.

    A sequential audit is never divided: whether its next examples are needed, only those before them tell.
    """
    if audit.method.sequential is not None:
        return run(audit, blob, progress, threads=threads, store=store, keep_maps=keep_maps)
    try:
        with store() as kept:
            ready = prepare(audit, blob, progress, kept)
            rows, panels = _divided(ready, kept, batches)
            if len(rows) + len(panels) < 2:
                return conclude(ready, progress, kept, threads=threads, keep_maps=keep_maps)
    except Evicted:  # while the audit ran, so that it was small enough
        return run(audit, blob, progress, threads=threads, keep_maps=keep_maps)
    return Division(rows=rows, panels=panels, interacts=ready.plan.model.interacts)


def _divided(ready: Prepared, kept: ArrayStore, batches: int) -> tuple[list[list[Rows]], list[list[Panels]]]:
    """The rows of shards, and the panels of others; whoever joins them does the one part of a kind that is small."""
    of_panels = divide_explanations(ready.plan.model, ready.explanations, batches=batches, most=MOST_SHARDS // 4)
    of_rows = divide(
        ready.plan,
        ready.counts,
        kept,
        provider=ready.provider,
        versions=ready.versions,
        batches=batches,
        most=MOST_SHARDS - len(of_panels),
    )
    rows = [[Rows(examples=name, start=at.start, stop=at.stop) for name, at in part.items()] for part in of_rows]
    panels = [
        [
            Panels(explanation=one.explanation, element=one.element, start=one.panels.start, stop=one.panels.stop)
            for one in part
        ]
        for part in of_panels
    ]
    return rows if len(rows) > 1 else [], panels if len(panels) > 1 else []


def run_shard(shard: Shard, blob: Blob, progress: Progress, *, threads: int, store: OpenStore) -> ShardResult:
    """Runs a shard and leaves its arrays in the store; raises InvalidInput as an audit does."""
    with store() as kept:
        ready = prepare(shard.audit, blob, progress, kept, interacts=shard.interacts)
        done = 0
        if shard.rows:
            done += _run_rows(ready, shard, progress, kept, threads=threads)
        if shard.panels:
            done += _run_panels(ready, shard.panels, progress, kept, threads=threads)
    return ShardResult(examples=done)


def _run_rows(ready: Prepared, shard: Shard, progress: Progress, kept: ArrayStore, *, threads: int) -> int:
    """Runs the model over rows; returns how many there are."""
    rows = {part.examples: range(part.start, part.stop) for part in shard.rows}
    whole = sum(map(len, rows.values()))
    shown = piece_key(loaded_key(shard.audit, ready.versions), 0)
    kept.put(shown, np.array([ready.plan.model.interacts]))
    collect_rows(
        ready.plan,
        rows,
        partial(each_batch, ready.sources, rows=rows),
        kept,
        provider=ready.provider,
        versions=ready.versions,
        threads=threads,
        progress=counter("collecting", "done", whole, progress),
    )
    return whole


def _run_panels(
    ready: Prepared, panels: Sequence[Panels], progress: Progress, kept: ArrayStore, *, threads: int
) -> int:
    """Runs elements of explanations at some of their panels; returns how many there are at most."""
    whole = sum(one.stop - one.start for one in panels)
    counted = counter("explaining", "done", whole, progress)
    means = means_of(ready, Whole(kept), threads or os.cpu_count() or 1, counted)
    planned = {one.name: one for one in ready.explanations}
    for one in panels:
        explain_part(ready.plan, planned[one.explanation], means, one.element, range(one.start, one.stop))
    return whole
