"""Seeded noise as a model's inputs, for the runs that need no examples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.onnx.session import Feeds
from caveat_worker.engine.onnx.values import shape_of_value

_SIZES = (2, 32, 224)  # tried for dimensions that are not fixed


def noises(model: ir.Model, *, seed: int = 0) -> Iterator[Feeds]:
    """Yields `noise_for` with 2, 32 and 224 for every open dimension but the batch; nothing if an input is a text."""
    for size in _SIZES:
        feeds = noise_for(model, size=size, seed=seed)
        if feeds is not None:
            yield feeds


def noise_for(model: ir.Model, *, batch: int = 2, size: int = 2, seed: int = 0) -> Feeds | None:
    """Seeded inputs [batch, size, ...]: standard normal, or 0 and 1 for integers; None if an input is a text.

    Dimensions that the model fixes keep their size.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        shape = [d if isinstance(d, int) else size if i else batch for i, d in enumerate(shape_of_value(value) or ())]
        if value.dtype is None or value.dtype == ir.DataType.STRING:
            return None
        noise = rng.standard_normal(shape) if value.dtype.is_floating_point() else rng.integers(0, 2, shape)
        feeds[value.name or ""] = noise.astype(value.dtype.numpy())
    return feeds
