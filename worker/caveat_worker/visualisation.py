"""The story of made pictures: read, plan, and show what atoms of a layer look for."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Collection
from typing import Any

import numpy as np

from caveat_spec.artifacts import STAGES, MadePicture, Visualisation
from caveat_spec.audit import Audit, Images
from caveat_spec.jobs import NewVisualisation
from caveat_worker.array_stores import scratch
from caveat_worker.engine.base.arrays import Float32Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.panels.icons import Pictured
from caveat_worker.engine.panels.visualised import Visualised, visualise
from caveat_worker.loading import Blob
from caveat_worker.pipeline import means_of, prepare
from caveat_worker.progress import Progress, counter


def make_pictures(request: NewVisualisation, blob: Blob, progress: Progress, *, threads: int = 0) -> Visualisation:
    """Pictures for the atoms of a request; raises InvalidInput for what cannot be made."""
    audit, cores = _alone(request.audit, request.concepts), threads or os.cpu_count() or 1
    with scratch() as kept:
        ready = prepare(audit, blob, progress, kept, methods=[])
        name, target = next(iter(ready.plan.targets.items()))
        examples = request.examples or audit.targets[name].examples
        if examples not in audit.examples:
            raise InvalidInput(
                "unknown-example-set",
                f"The audit declares no example set '{examples}'.",
                f"It declares {', '.join(audit.examples)}.",
            )
        means = means_of(ready, kept, cores, lambda _: None)
        found = visualise(
            ready.plan,
            OpenModel(ready.plan.model, target, ready.provider, threads=1),
            request,
            examples,
            Pictured(means.source, means.crop, means.words),
            kept,
            cores,
            counter("collecting", "reporting", request.count * request.steps, progress),
        )
        progress("reporting", STAGES["reporting"])
        declared = audit.examples[examples]
        mirrored = isinstance(declared, Images) and declared.preprocess.channels == "bgr"
        return Visualisation(
            audit=request.audit,
            engine=ready.engine,
            layer=found.layer,
            set=examples,
            examples=len(means.source.names[examples]),
            centre=request.centre,
            steps=request.steps,
            side=request.side,
            seed=request.seed,
            sees=found.sight.sees,
            height=found.size[0],
            width=found.size[1],
            resized=found.resized,
            pictures=[_document(one, mirrored=mirrored) for one in found.found],
            warnings=list(ready.plan.warnings),
        )


def _alone(audit: Audit, concepts: Collection[str]) -> Audit:
    """The audit without what no picture needs: every concept but those, and those that they control for."""
    if not audit.targets:
        raise InvalidInput(
            "no-target", "The audit has no target, and without one no layer.", "Declare one under 'targets'."
        )
    declared = [audit.concepts[name] for name in concepts if name in audit.concepts]
    named = {*concepts, *(other for one in declared for other in one.controlling_for)}
    left = {name: one for name, one in audit.concepts.items() if name in named}
    nothing: dict[str, Any] = {"concepts": left, "explain": {}, "keep": None, "random_labels": None}
    return audit.untested().model_copy(update=nothing)


def _document(one: Visualised, *, mirrored: bool) -> MadePicture:
    return MadePicture(
        atom=one.atom,
        unit=one.unit,
        response=_two_digits(one.response),
        highest=_two_digits(one.highest),
        withheld=_withheld(one),
        picture=base64.b64encode(_png(one.shares[::-1] if mirrored else one.shares)).decode(),
        rise=[_two_digits(value) for value in one.rise],
        spectrum=one.spectrum,
    )


def _withheld(one: Visualised) -> str | None:
    """Why a picture is not shown: it says nothing about an atom that responds more to the set's own examples."""
    if one.response > one.highest:
        return None
    example, unit = one.spectrum.icons[0].example, "" if one.unit == "activation" else f" {one.unit}"
    return (
        f"The picture that was made is not shown: the response of {one.atom} to it is {_two_digits(one.response):g}"
        f"{unit}, and to {example} {_two_digits(one.highest):g}{unit}. More steps, or another seed, may do better."
    )


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _png(shares: Float32Array) -> bytes:
    """A picture of shares [colours, height, width] as PNG."""
    from PIL import Image  # loads slowly

    pixels = np.rint(shares.transpose(1, 2, 0) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
