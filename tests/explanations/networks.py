"""Thirty-six random networks of nine families, whose explanations have to keep their claims."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caveat_worker.engine.explanations.model_runs import ModelRuns
from tests.engine.ordinary import Ordinary, cnn, maxout, mlp, mobile, residual, transformer, vgg
from tests.explanations.models import opened

FAMILIES: dict[str, Callable[[Ordinary], bytes]] = {
    "mlp": lambda net: mlp(net, inputs=12, widths=(16, 8)),
    "tanh": lambda net: mlp(net, inputs=12, widths=(16,), kind="Tanh"),
    "maxout": lambda net: maxout(net, inputs=12, width=8),
    "cnn": lambda net: cnn(net, size=4, widths=(4, 6)),
    "norm": lambda net: cnn(net, size=4, widths=(4,), norm=True),
    "vgg": lambda net: vgg(net, size=16, width=4),
    "residual": lambda net: residual(net, size=16, width=6, blocks=2),
    "mobile": lambda net: mobile(net, size=16, kind="Clip"),
    "transformer": lambda net: transformer(net, length=6, width=8, blocks=1, kind="Gelu"),
}
PIECEWISE = ("mlp", "cnn", "norm", "vgg", "residual", "maxout")
"""Families whose only nonlinear operators are Relu, Abs and maxima."""
QUICK = [(family, 0) for family in FAMILIES]
ALL = [(family, seed) for family in FAMILIES for seed in range(4)]


@cache
def _opened(family: str, seed: int) -> Any:
    return opened(FAMILIES[family](Ordinary(seed, ("small", "zero", "large", "small")[seed])))


def example(family: str, seed: int) -> tuple[ModelRuns, NDArray[Any]]:
    """Runs of a random network around a random example."""
    one = _opened(family, seed)
    shape = [d if isinstance(d, int) else 1 for d in one.model.inputs[0].shape]
    x = np.random.default_rng(100 + seed).standard_normal(shape).astype(np.float32)
    runs, _ = one.around({one.model.inputs[0].name: x})
    return runs, x


def middle(runs: ModelRuns) -> str:
    """A layer in the middle of a network that everything passes through, by its place."""
    from caveat_worker.engine.autodiff.layers import choose_layers

    chosen = choose_layers(runs.opened.model, runs.opened.target)
    return chosen[len(chosen) // 2]
