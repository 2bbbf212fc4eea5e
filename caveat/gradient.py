"""The gradient of a model as a file that needs nothing of Caveat's to run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from caveat.local import require_engine
from caveat.problems import problem

if TYPE_CHECKING:
    from worker.engine import Target
    from worker.engine.graph import TensorInfo

Scale = Literal["logit", "log_probability", "probability"]
Reduce = Literal["mean", "sum", "max"]


@dataclass(frozen=True)
class Written:
    """A gradient that was written, and what a person may want to know of it."""

    path: Path
    nodes: int
    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    sentences: Sequence[str]
    """Which tensor each target reads."""
    residual: float | None
    """The largest difference from finite differences, relative to the gradient's size; None where nothing was run."""
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
) -> Written:
    """Writes the gradient of each target (`7`, `7-3`, or none for a single number) at each layer as an ONNX file."""
    require_engine()
    from worker.engine import check_on_noise, differentiate, load, resolve_target

    with _in_words():
        loaded = load(model, bundle=model.parent)
        asked = [_target(said, output, scale, reduce) for said in dict.fromkeys(targets or ("",))]
        graph = differentiate(loaded, layers, asked)
        checks = check_on_noise(loaded, layers, asked)
        sentences = [resolve_target(loaded, one).sentence for one in asked]
    for check in checks:
        if not check.ok:
            raise problem(
                "gradient-check-failed",
                422,
                f"The gradient of '{check.target}' at '{check.layer}' differs from finite differences on noise by "
                f"{check.residual:.2g} of its size; the layer is read by {check.suspect}.",
                "Choose another layer, and please report the model: nothing was written.",
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        graph.save(path)
    except OSError as error:
        raise problem(
            "unwritable-output", 422, f"{path} cannot be written: {error.strerror}.", "Give --write another path."
        ) from None
    residual = max((check.residual for check in checks), default=None)
    return Written(
        path, len(list(graph.ir.graph)), graph.inputs, graph.outputs, sentences, residual, list(loaded.warnings)
    )


def _target(said: str, output: str | None, scale: Scale, reduce: Reduce | None) -> Target:
    """A target by the words of the command line."""
    from worker.engine import Target

    found = re.fullmatch(r"(\d+)(?:-(\d+))?|", said)
    if found is None:
        raise problem(
            "invalid-target", 422, f"'{said}' is no target.", "Give a class, such as 7, or a difference, such as 7-3."
        )
    index, versus = (None if number is None else int(number) for number in found.groups())
    return Target(said or "output", output=output, index=index, versus=versus, scale=scale, reduce=reduce)


@contextmanager
def _in_words() -> Iterator[None]:
    """What the engine refuses, as a problem."""
    from worker.engine import Refused

    try:
        yield
    except Refused as refused:
        raise problem(refused.code, 422, refused.sentence, refused.remedy) from None
