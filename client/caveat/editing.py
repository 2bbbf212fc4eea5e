"""Edits a model's own file along concepts' directions, or writes it with its concepts as further outputs."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from caveat import local
from caveat.auditfile import AuditFile, resolve
from caveat.installation import require_engine
from caveat.outputs import keep_apart, writing
from caveat.pack import Archive, addressed, content_of
from caveat.problems import problem
from caveat.progress import ProgressCallback
from caveat_spec.artifacts import Directions, WatchCheck
from caveat_spec.audit import Audit

if TYPE_CHECKING:
    from caveat_worker.engine.acting.edit import Edit
    from caveat_worker.engine.acting.monitor import Watched
    from caveat_worker.engine.autodiff.model import Model
    from caveat_worker.engine.onnx.graph import TensorInfo

FEWEST_TO_FIND = 2
"""Examples of a concept from which a direction may be found: it is judged on the others, by an audit's own numbers."""
LARGEST_ERROR = 1e-3
"""How far a monitoring model's numbers may be from the audit's own, relative to their spread."""


@dataclass(frozen=True)
class Change:
    """What is changed at which layer, and by which factor."""

    layer: str
    concepts: Sequence[str] = ()
    channels: Sequence[int] = ()
    scale: float = 0.0
    together: str | None = None
    """What ends the part of an example's name that keeps examples in one half."""


@dataclass(frozen=True)
class EditedFile:
    """An edited model that was written."""

    path: Path
    digest: str
    unchanged: bool
    """Whether the edit changes nothing, so that the file has the bytes of the original."""
    residual: float
    """How far the edited layer is from the edit's formula on noise, relative to its spread."""
    found_in: str | None
    """In how many examples the directions were found, in words; None for channels."""


@dataclass(frozen=True)
class MonitorFile:
    """A monitoring model that was written."""

    path: Path
    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    check: WatchCheck
    warnings: Sequence[str]
    scores_only: bool = False
    """Whether it has no sensitivities."""


def halved(audit: Audit, half: Literal["first", "second"], together: str | None) -> Audit:
    """The audit with one half of each of its example sets; raises a `ProblemError` where one is halved already."""
    for name, one in audit.examples.items():
        if one.half is not None:
            raise problem(
                "already-halved",
                422,
                f"Example set '{name}' has a 'half' of its own.",
                "Leave 'half' out: the direction is found in the first half of every set, and judged on the second.",
            )
    examples = {
        name: one.model_copy(update={"half": half, "together": one.together or together})
        for name, one in audit.examples.items()
    }
    return audit.model_copy(update={"examples": examples})


def write_edit(file: AuditFile, change: Change, path: Path, on_progress: ProgressCallback) -> EditedFile:
    """Writes the audit's model with a change; its directions are found in the first half of the audit's examples."""
    require_engine()
    from caveat_worker.engine.acting.edit import check_edit, edited
    from caveat_worker.engine.autodiff.load import load

    _check_change(file.audit, change)
    source = model_of(file, path)
    with local.engine_errors():
        original, proto = _read(file.audit, source)
        tensor = _tensor(original, change.layer)
    if change.scale == 1:
        _write(path, source.read_bytes(), source)
        return EditedFile(path, addressed(path)[1], True, 0.0, None)
    directions = None if change.channels else _directions(file, change, on_progress)
    edit = _edit_of(change, directions)
    about = {
        "layer": change.layer,
        "scale": change.scale,
        "of": addressed(source)[1],
        **({"channels": list(change.channels)} if change.channels else {"concepts": list(change.concepts)}),
    }
    with local.engine_errors():
        result = edited(proto, original, tensor, edit, about)
        assert result is not None, "a factor of 1 is dealt with above"
        content = result.SerializeToString(deterministic=True)
        after = load(content, folder=source.parent, interacts=original.interacts, **_given(file.audit))
        residual = check_edit(original, after, tensor, edit)
    _write(path, content, source)
    return EditedFile(path, addressed(path)[1], False, residual, None if directions is None else _found_in(directions))


def write_monitor(
    file: AuditFile, path: Path, on_progress: ProgressCallback, *, scores_only: bool = False
) -> MonitorFile:
    """Writes the audit's model with each example's concept scores and sensitivities as further outputs.

    With `scores_only` it has no sensitivities, and so no backward pass.
    """
    require_engine()
    from caveat_worker.engine.acting.monitor import monitoring_graph
    from caveat_worker.engine.plan import target_of

    if not file.audit.concepts:
        raise problem(
            "no-concepts", 422, "The audit has no concept to watch.", "Declare one under 'concepts', with its examples."
        )
    source = model_of(file, path)
    method = file.audit.method.model_copy(update={"sequential": None})
    tested = file.audit.model_copy(update={"test_concepts": True, "method": method})
    found = local.find_directions(resolve(replace(file, audit=tested)), on_progress, watch=True)
    if found.check is not None and max(found.check.score_error, found.check.sensitivity_error) > LARGEST_ERROR:
        raise problem(
            "monitor-check-failed",
            422,
            f"The monitoring model's numbers differ from the audit's by {found.check.score_error:.1e} sd and "
            f"{found.check.sensitivity_error:.1e} of the largest sensitivity.",
            "Nothing was written. Audit other layers, and please report the model.",
        )
    with local.engine_errors():
        model, _ = _read(file.audit, source)
        names = _class_names(file)
        asked = {} if scores_only else file.audit.targets
        targets = [target_of(name, one, model, names) for name, one in asked.items()]
        graph = monitoring_graph(model, [_watched(one) for one in found.directions], targets)
    with writing(path):
        graph.save(path)
    assert found.check is not None, "it was asked for"
    return MonitorFile(path, graph.inputs, graph.outputs, found.check, [*model.warnings], scores_only)


def model_of(file: AuditFile, path: Path) -> Path:
    """The file of the audit's model; raises a `ProblemError` where there is none, and where `path` would replace it."""
    source = file.positions.path.parent / file.audit.model
    if not source.is_file():
        raise problem(
            "no-model-file", 422, f"The model '{file.audit.model}' is not a file here.", "Name an ONNX file in 'model'."
        )
    keep_apart(path, content_of(source))
    return source


def _check_change(audit: Audit, change: Change) -> None:
    """Raises a `ProblemError` where a change is not one of this audit."""
    if bool(change.concepts) == bool(change.channels):
        raise problem(
            "nothing-to-edit",
            422,
            "An edit is of concepts or of channels.",
            "Pass either --concept, with the name of one in the audit file, or --channel, with a number.",
        )
    for name in change.concepts:
        if name not in audit.concepts:
            raise problem(
                "unknown-concept",
                422,
                f"The audit declares no concept '{name}'.",
                f"It declares {', '.join(audit.concepts) or 'none'}.",
            )
    if not 0 <= change.scale <= 10:
        raise problem(
            "invalid-scale",
            422,
            f"The scale {change.scale:g} is not from 0 to 10.",
            "0 takes the concept's part out, 0.5 halves it, 1 leaves the model as it is.",
        )


def _directions(file: AuditFile, change: Change, on_progress: ProgressCallback) -> Directions:
    """The directions of the concepts at the layer, found in the first half of the examples."""
    audit = halved(file.audit, "first", change.together)
    wanted = {*change.concepts, *(name for one in change.concepts for name in audit.concepts[one].controlling_for)}
    asked = audit.model_dump(mode="json") | {
        "test_concepts": True, "layers": [change.layer], "gate": [],
        "explain": {}, "groups": {}, "compare": {}, "methods": {},
    }  # fmt: skip
    asked["method"] |= {"min_examples": FEWEST_TO_FIND, "sequential": None}
    asked["concepts"] = {name: one for name, one in asked["concepts"].items() if name in wanted}
    only = replace(file, audit=Audit.model_validate(asked))
    return local.find_directions(resolve(only), on_progress, watch=False)


def _edit_of(change: Change, found: Directions | None) -> Edit:
    """The edit as the engine takes it."""
    import numpy as np

    from caveat_worker.engine.acting.edit import ScaledChannels, ScaledDirections

    if found is None:
        return ScaledChannels(tuple(change.channels), change.scale)
    used = [one for one in found.directions if one.concept in change.concepts]
    vectors = np.stack([_vector(one.values, one.shape) for one in used])
    return ScaledDirections(vectors, np.array([one.origin for one in used]), change.scale)


def _watched(one: Any) -> Watched:
    from caveat_worker.engine.acting.monitor import Watched

    vector = _vector(one.values, one.shape)
    return Watched(one.concept, one.layer, one.tensor, one.reduce, vector, one.step, one.mean, one.sd)


def _vector(values: str, shape: Sequence[int]) -> Any:
    import numpy as np

    return np.frombuffer(base64.b64decode(values), "<f4").astype(np.float64).reshape(shape)


def _read(audit: Audit, source: Path) -> tuple[Model, Any]:
    """The model as the engine works on it, and the file's own message, whose weights may be in other files."""
    import onnx

    from caveat_worker.engine.autodiff.load import load

    model = load(source, folder=source.parent, **_given(audit))
    return model, onnx.ModelProto.FromString(source.read_bytes())


def _given(audit: Audit) -> dict[str, Any]:
    """What the audit says of the model's inputs."""
    from caveat_worker.loading import fed_by_name

    return {"constants": audit.constants, "fed": fed_by_name(audit)}


def _tensor(model: Model, layer: str) -> str:
    """The tensor of a layer that may be named with its reduction."""
    from caveat_worker.engine.autodiff.differentiate import find_layer

    named, at, reduction = layer.rpartition("@")
    return find_layer(model, named if at and reduction in ("mean", "flatten") else layer)


def _class_names(file: AuditFile) -> Any:
    """The names of classes from beside the model; None where the audit has none."""
    if file.audit.labels is None:
        return None
    from caveat_worker.readers.class_names import read_class_names

    return read_class_names(file.positions.path.parent / file.audit.labels)


def _found_in(found: Directions) -> str:
    one = found.directions[0]
    return f"{one.n_concept} examples of the concept and {one.n_reference} without it"


def _write(path: Path, content: bytes, source: Path) -> None:
    """Writes a model, and beside it the data files that it shares with the original."""
    model = content_of(source)
    data = {} if not isinstance(model, Archive) else {n: f for n, f in model.files.items() if f != source}
    with writing(path):
        for name, file in data.items():
            _copied(file, path.parent / name)
        path.write_bytes(content)


def _copied(file: Path, place: Path) -> None:
    """A data file beside the edited model: the original's own where both are in one folder, else a copy."""
    if place.exists() and os.path.samefile(file, place):
        return
    if place.exists() and addressed(place)[1] != addressed(file)[1]:
        raise problem(
            "unwritable-output",
            422,
            f"{place} exists with other bytes, and the edited model needs the original's data file under that name.",
            "Give --write a path in an empty folder.",
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, place)
