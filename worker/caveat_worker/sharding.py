"""A large audit in parts: divided, each part run by any worker, and put together as if one worker had done it all.

A part is some rows of some example sets on their way through the model. Rows do not depend on each other there, and
parts begin and end between batches, so each batch is the one that a single worker would have run, to the last bit.
Everything after the model is computed once, by whoever puts the parts together, in the order in which it always is.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from caveat_spec.audit import Audit
from caveat_spec.jobs import MOST_SHARDS, Division, Rows, Shard, ShardResult
from caveat_spec.report import Report
from caveat_worker.engine.activations.array_keys import piece_key
from caveat_worker.engine.activations.collect import collect_rows
from caveat_worker.engine.activations.division import divide
from caveat_worker.engine.base.store import Evicted
from caveat_worker.loading import Blob, loaded_key
from caveat_worker.pipeline import OpenStore, conclude, prepare, run
from caveat_worker.progress import Progress, counter
from caveat_worker.readers.batching import each_batch


def run_or_divide(
    audit: Audit, blob: Blob, progress: Progress, *, threads: int, store: OpenStore, batches: int
) -> Report | Division:
    """Runs an audit, or says how to divide it if more than so many batches have to go through the model.

    A sequential audit is never divided: whether its next examples are needed, only those before them tell.
    """
    if audit.method.sequential is not None:
        return run(audit, blob, progress, threads=threads, store=store)
    try:
        with store() as kept:
            ready = prepare(audit, blob, progress, kept)
            parts = divide(
                ready.plan,
                ready.counts,
                kept,
                provider=ready.provider,
                versions=ready.versions,
                batches=batches,
                most=MOST_SHARDS,
            )
            if len(parts) < 2:
                return conclude(ready, progress, kept, threads=threads)
    except Evicted:  # while the audit ran, so that it was small enough
        return run(audit, blob, progress, threads=threads)
    return Division(
        shards=[
            [Rows(examples=name, start=rows.start, stop=rows.stop) for name, rows in part.items()] for part in parts
        ],
        interacts=ready.plan.model.interacts,
    )


def run_shard(shard: Shard, blob: Blob, progress: Progress, *, threads: int, store: OpenStore) -> ShardResult:
    """Runs the model over a shard's rows and leaves the arrays in the store; raises InvalidInput as an audit does."""
    rows = {part.examples: range(part.start, part.stop) for part in shard.rows}
    whole = sum(map(len, rows.values()))
    with store() as kept:
        ready = prepare(shard.audit, blob, progress, kept, interacts=shard.interacts)
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
    return ShardResult(examples=whole)
