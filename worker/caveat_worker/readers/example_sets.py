"""The example sets of an audit: opened, outlined for the plan, and summarised for the report."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from caveat_spec.audit import Audit, Examples
from caveat_spec.report import ExampleSetSummary
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.base.errors import InvalidInput, error_context
from caveat_worker.engine.onnx.columns import input_columns
from caveat_worker.engine.plan import ExampleOutline
from caveat_worker.readers.registry import Blob, open_examples
from caveat_worker.readers.source import THUMBNAIL_PIXELS, ExampleSource, ModelInputs


def open_set(name: str, declared: Examples, blob: Blob, seed: int, lots: Sequence[str] = ()) -> ExampleSource:
    """One example set; errors point to it."""
    with error_context(f"/examples/{name}", "set"):
        return open_examples(declared, blob, seed, lots)


def open_set_of(audit: Audit, name: str, blob: Blob) -> ExampleSource:
    """An audit's example set; one that is paired with other rows takes the half and the sample of its base."""
    seed, base = audit.method.seed, audit.drawn_like(name)
    lots = () if base is None else open_set(base, audit.examples[base], blob, seed).lots
    return open_set(name, audit.examples[name], blob, seed, lots)


def open_sets(audit: Audit, blob: Blob, reader: ThreadPoolExecutor) -> dict[str, Future[ExampleSource]]:
    """Every example set of an audit, opened in another thread."""
    return {name: reader.submit(open_set_of, audit, name, blob) for name in audit.examples}


def fit_to(model: Model, sources: Mapping[str, ExampleSource]) -> dict[str, ExampleSource]:
    """The example sets as the model takes them; errors point to the set that does not fit."""
    inputs = ModelInputs(model.inputs, input_columns(model.ir), model.metadata)
    fitted = {}
    for name, source in sources.items():
        with error_context(f"/examples/{name}", "inputs"):
            fitted[name] = source if source.fit is None else source.fit(inputs)
    return fitted


def shapes_fed(model: Model, sources: Mapping[str, ExampleSource]) -> dict[str, tuple[int, ...]]:
    """The shape, without the batch, in which every example set feeds an input, for inputs where they agree."""
    names = [one.name for one in model.inputs]
    found: dict[str, set[tuple[int, ...]]] = {}
    for source in sources.values():
        for name, shape in source.shapes.items():
            found.setdefault(names[0] if name == ONLY and len(names) == 1 else name, set()).add(tuple(shape))
    return {name: shape for name, (shape, *others) in found.items() if not others}


def warnings_of(sources: Mapping[str, ExampleSource]) -> list[str]:
    """What the fit of example sets to the model showed: one sentence for each clause, naming its sets."""
    sets: dict[str, list[str]] = {}
    for name, source in sources.items():
        for clause in source.warnings:
            sets.setdefault(clause, []).append(f"'{name}'")
    return [f"In {' and '.join(names)}, {clause}." for clause, names in sets.items()]


def check_columns(audit: Audit, sources: Mapping[str, ExampleSource]) -> None:
    """Raises `InvalidInput`, pointing to the field, where a version, a group or `explain` names a missing column."""
    for name, version in audit.compare.items():
        for examples in audit.compared_sets(name) if version.label is not None else ():
            with error_context(f"/compare/{name}/label"):
                _labelled(examples, sources[examples], str(version.label))
    for name, group in audit.groups.items():
        read = sources[group.examples].columns
        assert read is not None, "the audit's own validation: groups are compared in tables"
        named = [(field, one) for field in ("sensitive", "given") for one in getattr(group, field)]
        named += [("decision", group.decision), ("score", group.score), ("label", group.label)]
        for field, column in named:
            if column is not None:
                with error_context(f"/groups/{name}/{field}"):
                    read([column])
    for name, asked in audit.explain.items():
        read = sources[audit.explained_set(name)].columns
        if asked.examples.label is not None and read is not None:
            with error_context(f"/explain/{name}/examples/label"):
                read([asked.examples.label])


def _labelled(name: str, source: ExampleSource, column: str) -> None:
    """Raises `InvalidInput` where a set has no such column of whole numbers."""
    if source.read_columns is None:
        raise InvalidInput(
            "no-columns",
            f"Example set '{name}' is not a table, and has no column '{column}' of true classes.",
            "Leave 'label' out, or name sets that are tables under 'examples'.",
        )
    values = source.read_columns([column])[column]
    if values.dtype.kind not in "iub" and not (values.dtype.kind == "f" and (values == np.floor(values)).all()):
        raise InvalidInput(
            "labels-not-numbers",
            f"Column '{column}' of '{name}' does not hold the numbers of classes.",
            "Number the classes as the model's output does, from 0.",
        )


def outline_of(source: ExampleSource) -> ExampleOutline:
    """What planning needs to know of an example set."""
    return ExampleOutline(shapes=source.shapes, keys=source.keys, optional=source.optional)


def summaries(audit: Audit, sources: Mapping[str, ExampleSource]) -> list[ExampleSetSummary]:
    """Each set with its digest, its kind and how many examples it has."""
    digests = audit.sources()
    return [
        ExampleSetSummary(
            name=name,
            source=next(digest for pointer, digest in digests.items() if pointer.startswith(f"/examples/{name}/")),
            count=len(source),
            kind=source.kind,
        )
        for name, source in sources.items()
    ]


def thumbnail_of(
    audit: Audit, sources: Mapping[str, ExampleSource], pixels: int = THUMBNAIL_PIXELS
) -> Callable[[str, int], str | None]:
    """Makes thumbnails, as data URIs, as far as the audit allows them; (example set, position) → one."""
    shown = audit.method.pictures

    def thumbnail(name: str, position: int) -> str | None:
        source = sources[name]
        if source.thumbnail is None or shown == "ids":
            return None
        small = source.thumbnail(position, shown == "blurred", pixels)
        return "data:image/webp;base64," + base64.b64encode(small).decode()

    return thumbnail
