"""Writes the gradient of a model as an ONNX file that runs without Caveat."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from caveat.installation import require_engine
from caveat.local import engine_errors
from caveat.outputs import keep_apart, writing
from caveat.pack import content_of
from caveat.problems import problem

if TYPE_CHECKING:
    from caveat_worker.engine.autodiff.target import Target
    from caveat_worker.engine.onnx.graph import TensorInfo

Scale = Literal["logit", "log_probability", "probability"]
Reduce = Literal["mean", "sum", "max", "last"]


@dataclass(frozen=True)
class Written:
    """A gradient model that was written, and what the command prints about it."""

    path: Path
    nodes: int
    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    sentences: Sequence[str]
    """One for each target: the tensor that it reads."""
    residual: float | None
    """The largest difference from finite differences, relative to the gradient; None where the model did not run."""
    warnings: Sequence[str]


def write_gradient(
    model: Path,
    layers: Sequence[str],
    targets: Sequence[str],
    path: Path,
    *,
    output: str | None = None,
    scale: Scale = "logit",
    reduce: Reduce | None = None,
    constants: Mapping[str, float] | None = None,
) -> Written:
    """Writes the gradient of each target (`7`, `7-3`, or none for a single number) at each layer as an ONNX file.

    Inputs that `constants` name hold a number, and are no inputs of that file.
    """
    require_engine()
    from caveat_worker.engine.autodiff.differentiate import differentiate
    from caveat_worker.engine.autodiff.gradient_check import TOLERANCE, check_on_noise
    from caveat_worker.engine.autodiff.load import load
    from caveat_worker.engine.autodiff.target import resolve_target

    keep_apart(path, content_of(model) if model.is_file() else model)
    with engine_errors():
        loaded = load(model, folder=model.parent, constants=constants or None)
        resolved = [_target(classes, output, scale, reduce) for classes in dict.fromkeys(targets or ("",))]
        graph = differentiate(loaded, layers, resolved)
        checks = check_on_noise(loaded, layers, resolved)
        sentences = [resolve_target(loaded, one).sentence for one in resolved]
    for check in checks:
        if not check.ok:
            raise problem(
                "gradient-check-failed",
                422,
                check.explain(TOLERANCE),
                "Nothing was written. Choose another layer, and please report the model.",
            )
    with writing(path):
        graph.save(path)
    residual = max((check.residual for check in checks), default=None)
    return Written(
        path, len(list(graph.ir.graph)), graph.inputs, graph.outputs, sentences, residual, list(loaded.warnings)
    )


def _target(classes: str, output: str | None, scale: Scale, reduce: Reduce | None) -> Target:
    """The target that the command line describes: `7`, `7-3`, or nothing for a single number."""
    from caveat_worker.engine.autodiff.target import Target

    found = re.fullmatch(r"(\d+)(?:-(\d+))?|", classes)
    if found is None:
        raise problem(
            "invalid-target",
            422,
            f"'{classes}' is not a target.",
            "Pass a class, such as 7, or a difference, such as 7-3.",
        )
    index, versus = (None if number is None else int(number) for number in found.groups())
    return Target(classes or "output", output=output, index=index, versus=versus, scale=scale, reduce=reduce)
