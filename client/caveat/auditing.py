"""An audit from Python, on this machine: objects in memory become the files of an audit, and a report comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caveat import local, terminal
from caveat.audit_observers import observers
from caveat.auditfile import AuditFile, checked, fetched, resolve
from caveat.editing import Change, MonitorFile
from caveat.maps import Maps
from caveat.objects.examples import ExampleFiles
from caveat.objects.models import Samples, columns_of, is_path, takes_columns, write_model
from caveat.positions import Positions
from caveat.problems import pointing_into
from caveat.repair import monitor as write_monitor
from caveat.repair import repair
from caveat.result import AuditResult
from caveat_spec.audit import Audit
from caveat_spec.report import Report
from caveat_storage.temporary_folders import temporary_folder

_NAMED = Positions(Path("the audit"))


def audit(
    model: Any,
    *,
    examples: Mapping[str, Any],
    concepts: Mapping[str, Any] | None = None,
    targets: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
    gate: Sequence[Mapping[str, Any]] = (),
    show_progress: bool = True,
    **fields: Any,
) -> AuditResult:
    """Audits a model on this machine, in the sandboxed process that `caveat gate` uses.

    `model` is the path of an ONNX file, its bytes, an `onnx.ModelProto`, or a fitted model of torch, scikit-learn,
    XGBoost, LightGBM or CatBoost, which its library's own exporter turns into one. Each of `examples` is an
    array [n, ...], a dict of arrays by the model's inputs, a data frame, a path, or a mapping as in an audit file whose
    sources may be such objects, lists of PIL pictures or lists of strings. All else is as in an audit file; with
    `keep="maps"` the result's `maps` have every number of the figures of `explain`, with `keep="cavs"` the CAVs.

    Raises `caveat.ProblemError` where the audit cannot be run.
    """
    asked: dict[str, Any] = {"concepts": concepts or {}, "targets": targets or {}, "groups": groups or {}}
    asked |= {"gate": [dict(line) for line in gate], **fields}
    with _written(model, examples, asked) as (file, folder):
        resolved, kept = resolve(fetched(file, folder)), list[bytes]()
        if show_progress:
            with terminal.progress() as on_progress:
                written = local.run_audit(resolved, on_progress, keep_maps=kept.append)
        else:
            written = local.run_audit(resolved, lambda stage, share: None, keep_maps=kept.append)
    report = Report.model_validate_json(written)
    result = AuditResult(report, written, Maps.read(kept[0], report.maps) if kept else None)
    for observer in observers:
        observer(result)
    return result


def edit(
    model: Any,
    *,
    layer: str,
    concept: str | Sequence[str] = (),
    channels: Sequence[int] = (),
    scale: float = 0.0,
    together: str | None = None,
    write: str | Path = "edited.onnx",
    examples: Mapping[str, Any],
    **asked: Any,
) -> EditResult:
    """Scales concepts' directions, or channels, behind a layer, and audits the model before and after.

    `scale` 0 takes them out, 1 leaves the file's bytes as they are. Directions are found in the first half of the
    examples and judged on the second; `together` is the sign that ends the part of a name which keeps examples in one
    half. All else is as in `audit`. Raises `caveat.ProblemError` for what cannot be edited or audited.
    """
    names = [concept] if isinstance(concept, str) else list(concept)
    change = Change(layer, names, list(channels), scale, together)
    with _written(model, examples, asked) as (file, _):
        found = repair(file, change, Path(write), keys=[])
    before, after = (AuditResult(one.report, one.written) for one in (found.before, found.after))
    return EditResult(found.file.path, before, after)


def monitor(
    model: Any,
    *,
    write: str | Path = "monitored.onnx",
    scores_only: bool = False,
    examples: Mapping[str, Any],
    **asked: Any,
) -> MonitorFile:
    """Writes the model with each example's concept scores and sensitivities as further outputs.

    With `scores_only` it has no sensitivities, and costs little more than the model itself. All else is as in `audit`.
    Raises `caveat.ProblemError` where the model has no layer to watch, or where its numbers are not the audit's own.
    """
    with _written(model, examples, asked) as (file, _):
        return write_monitor(file, Path(write), scores_only=scores_only)


@dataclass(frozen=True)
class EditResult:
    """An edited model, and its audits before and after."""

    path: Path
    before: AuditResult
    after: AuditResult


@contextmanager
def _written(model: Any, examples: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[tuple[AuditFile, Path]]:
    """An audit of objects in memory as an audit of files, and the folder that they are in for the while."""
    with temporary_folder() as folder, pointing_into(_NAMED):
        files = ExampleFiles(folder)
        declared = {name: files.declared(name, given) for name, given in examples.items()}
        source = str(model if is_path(model) else folder / "model.onnx")
        if not is_path(model):
            _name_columns(model, declared, files)
        file = AuditFile(checked(Audit, {**asked, "model": source, "examples": declared}, _NAMED), _NAMED)
        if not is_path(model):
            write_model(model, _samples(files, declared), Path(source))
        yield file, folder


def _samples(files: ExampleFiles, declared: Mapping[str, Any]) -> Samples:
    """What an exporter may see: the first frame, the first arrays, the shape of the first pictures."""
    picture = next((_shape(one["preprocess"]) for one in declared.values() if "preprocess" in one), None)
    return Samples(next(iter(files.tables.values()), None), next(iter(files.arrays.values()), None), picture)


def _shape(preprocess: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of one picture, as the network takes it."""
    size, channels = preprocess["size"], 1 if preprocess.get("channels") == "gray" else 3
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return (height, width, channels) if preprocess.get("layout") == "nhwc" else (channels, height, width)


def _name_columns(model: Any, declared: Mapping[str, dict[str, Any]], files: ExampleFiles) -> None:
    """Has tables feed the columns that the model was fitted on, where its ONNX file no longer knows their names."""
    columns = columns_of(model)
    if columns is None or takes_columns(model, next(iter(files.tables.values()), None)):
        return
    for one in declared.values():
        if "table" in one and "inputs" not in one:
            one.setdefault("features", columns)
