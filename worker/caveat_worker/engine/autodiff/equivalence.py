"""Compares runs on seeded noise: a rewritten model with its file, and an example in a batch with the example alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from caveat_worker.engine.autodiff.model import OLDEST_OPSET
from caveat_worker.engine.autodiff.noise import noise_for, noises
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import Feeds, Session, open_session
from caveat_worker.engine.onnx.values import HALF_PRECISION

Run: TypeAlias = tuple[Feeds, dict[str, NDArray[Any]]]
"""A session's feeds, and its outputs for them."""


def compare_with_file(original: ir.Model, before: Session, model: ir.Model, after: Session) -> Run | None:
    """Runs a model as its file has it and as it was rewritten; raises `InvalidInput` if their outputs differ.

    Returns the rewritten model's run; None if the file's model runs on no noise.
    """
    first = next(_runs(before, noises(original)), None)
    if first is None:
        return None
    feeds, expected = first
    types = {v.name: v.dtype.numpy() for v in model.graph.inputs if v.dtype is not None}
    half = any(v.dtype in HALF_PRECISION for v in (*original.graph.inputs, *original.graph.initializers.values()))
    feeds = {k: v.astype(types[k]) for k, v in feeds.items()}
    outputs = after.run(feeds)
    for name, value in outputs.items():
        if isinstance(value, np.ndarray) and not half and not _agree([expected[name]], value):
            raise InvalidInput(
                "conversion-changed-the-model",
                f"After conversion to opset {OLDEST_OPSET} and to operators that have rules, the model's output "
                f"'{name}' is different.",
                f"Export it with opset_version={OLDEST_OPSET} or later.",
            )
    return feeds, outputs


def examples_interact(model: ir.Model, session: Session, run: Run | None) -> bool:
    """Whether the first of two examples gets another output alone, on the inputs of `run` or on noise."""
    two = run is not None and all(x.shape[:1] == (2,) for x in run[0].values() if x.ndim)
    for feeds, both in chain([run] if run and two else [], _runs(session, noises(model, seed=3))):
        try:
            alone = session.run({k: x[:1] if x.ndim else x for k, x in feeds.items()})
        except InvalidInput:
            continue
        pairs = [(alone[k], both[k]) for k in both if isinstance(both[k], np.ndarray) and np.shape(both[k])[:1] == (2,)]
        return not all(_agree([one], joint[:1]) for one, joint in pairs)
    return False


def batches_join(fixed: ir.Model, free: ir.Model) -> bool:
    """Whether one batch of a free model gives the outputs of the two fixed batches that it consists of."""
    first, second = noise_for(fixed, seed=1), noise_for(fixed, seed=2)
    if first is None or second is None:
        return False
    try:
        one = open_session(Graph(fixed), threads=1, optimise=False)
        joint = {k: np.concatenate([first[k], second[k]]) for k in first}
        both = open_session(Graph(free), threads=1, optimise=False).run(joint)
        halves = [one.run(first), one.run(second)]
    except (InvalidInput, TypeError):
        return False
    return all(_agree([half[name] for half in halves], both[name]) for name in both)


def _runs(session: Session, candidates: Iterable[Feeds]) -> Iterator[Run]:
    """Runs a session on each of the feeds, and leaves out those on which it fails."""
    for feeds in candidates:
        try:
            outputs = session.run(feeds)
        except InvalidInput:  # too small for its poolings, perhaps
            continue
        yield feeds, outputs


def _agree(parts: Sequence[object], whole: object) -> bool:
    """Whether the parts, joined along the batch, equal the whole, as far as float32 can tell."""
    if not isinstance(whole, np.ndarray) or not all(isinstance(part, np.ndarray) and part.ndim for part in parts):
        return False
    joined = np.concatenate([np.asarray(part) for part in parts])
    if joined.shape != whole.shape:
        return False
    if not np.issubdtype(whole.dtype, np.floating):
        return bool((joined == whole).all())
    largest = np.abs(joined, where=np.isfinite(joined), out=np.zeros_like(joined)).max(initial=0)
    return bool(np.allclose(joined, whole, rtol=1e-3, atol=1e-4 * (1 + largest), equal_nan=True))
