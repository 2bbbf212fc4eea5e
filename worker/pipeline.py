"""The whole story of an audit on one screen."""

from __future__ import annotations

import base64
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnxruntime as ort

from api_spec.artifacts import ExampleSummary, Inspection, ModelLayer, Stage, Tensor
from api_spec.audit import Audit, Examples, Group, Scalar
from api_spec.gate import decide
from api_spec.report import Engine, ExampleSetSummary, Report
from worker.engine.check import TOLERANCE
from worker.engine.check import GradientCheck as Check
from worker.engine.correction import fewest_null_sets
from worker.engine.device import DeviceProducts
from worker.engine.differentiate import Target, resolve_target
from worker.engine.errors import Refused, about
from worker.engine.evidence import weigh
from worker.engine.gram import Floats, inner
from worker.engine.layers import choose_layers, list_layers
from worker.engine.model import Model, load
from worker.engine.plan import ExampleOutline, Plan, make_plan, target_of
from worker.engine.probe import Batch, Seen, probe
from worker.engine.report import assemble, gradient_checks
from worker.engine.session import Provider, installed, why_not
from worker.engine.shelf import Evicted, Shelf, key_of
from worker.engine.stats import Settings
from worker.engine.supplied import read_supplied, verify
from worker.engine.walk import walk
from worker.engine.witness import Change, Link, intervention, target_value
from worker.readers import ExampleSource, open_examples
from worker.readers.batching import batches
from worker.scratch import scratch

if TYPE_CHECKING:
    from worker.engine.groups import GroupComparison

Blob = Callable[[str], Path]
"""Digest → where its bytes are."""
Progress = Callable[[Stage, float], None]
Shelves = Callable[[], AbstractContextManager[Shelf]]
"""Opens the place where an audit's arrays are kept."""

LIBRARIES = (ort.package_name, "onnx", "numpy", "scipy", "scikit-learn", "pillow", "fairlearn")
SHARES = {
    "loading": 0.0,
    "reading": 0.02,
    "planning": 0.04,
    "probing": 0.06,
    "fitting": 0.6,
    "reporting": 0.97,
    "done": 1.0,
}
"""Where each stage begins, as a share of the whole."""


def run(audit: Audit, blob: Blob, progress: Progress, *, threads: int = 0, shelf: Shelves = scratch) -> Report:
    """Runs one audit whose sources are digests; raises `Refused` for what cannot be audited."""
    try:
        with shelf() as kept:
            return conclude(prepare(audit, blob, progress, kept), progress, kept, threads=threads)
    except Evicted:  # others needed the room; what is missing now would be missing again
        with scratch() as kept:
            return conclude(prepare(audit, blob, progress, kept), progress, kept, threads=threads)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An audit whose model is loaded, whose example sets are open, and whose plan is made."""

    plan: Plan
    sources: Mapping[str, ExampleSource]
    engine: Engine
    provider: Provider
    notes: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """How many examples each set has."""
        return {name: len(source) for name, source in self.sources.items()}

    @property
    def versions(self) -> dict[str, str]:
        """What decides the last bit of a number, beside the provider."""
        return _versions(self.engine)


def prepare(audit: Audit, blob: Blob, progress: Progress, kept: Shelf, *, interacts: bool | None = None) -> Prepared:
    """Everything that comes before the first example goes through the model; `interacts` is what somebody found."""
    provider, notes = choose_provider(audit.method.provider)
    engine = _engine(provider)
    progress("loading", SHARES["loading"])
    with ThreadPoolExecutor(1) as beside:
        opened = {
            name: beside.submit(_open, name, each, blob, audit.method.seed) for name, each in audit.examples.items()
        }
        with about("/model"):
            model = _load(blob(audit.model), loaded_key(audit, _versions(engine)), kept, interacts)
        with about("/gradient"):
            supplied = None if audit.gradient is None else read_supplied(blob(audit.gradient), model)
        progress("reading", SHARES["reading"])
        sources = {name: source.result() for name, source in opened.items()}
    progress("planning", SHARES["planning"])
    plan = make_plan(audit, model, {name: _outline(source) for name, source in sources.items()}, supplied)
    return Prepared(plan, sources, engine, provider, notes)


def conclude(ready: Prepared, progress: Progress, kept: Shelf, *, threads: int) -> Report:
    """Everything from the first example to the verdict."""
    plan, sources, audit = ready.plan, ready.sources, ready.plan.audit

    def read(sizes: Mapping[str, int]) -> Iterator[tuple[str, Batch]]:
        return each_batch(sources, sizes)

    seen = probe(
        plan,
        ready.counts,
        read,
        kept,
        provider=ready.provider,
        versions=ready.versions,
        threads=threads,
        progress=counter("probing", "fitting", sum(len(sources[name]) for name in plan.needs), progress),
    )
    tests = len(plan.layers) * len(audit.concepts)
    settings, more = _settings(plan)
    fitted = counter("fitting", "reporting", tests, progress)
    multiply = inner if ready.provider == "cpu" else DeviceProducts(ready.provider)
    cores = threads or os.cpu_count() or 1
    evidence = weigh(plan, seen, kept, settings, fitted, threads=cores, multiply=multiply)
    walked = walk(plan, seen, evidence.steps, kept, read, provider=ready.provider, threads=threads)
    progress("reporting", SHARES["reporting"])
    report = assemble(
        plan,
        seen,
        evidence,
        walked,
        _changes(plan, seen),
        {name: _compared(plan, seen, asked, sources[asked.examples]) for name, asked in audit.groups.items()},
        examples=_summaries(audit, sources),
        names={name: source.names for name, source in sources.items()},
        thumbnail=lambda name, position: _thumbnail(audit, sources[name], position),
        engine=ready.engine,
        warnings=[*ready.notes, *more],
        threads=cores,
    )
    return report.model_copy(update={"verdict": decide(report, audit.gate)})


def inspect_model(
    path: Path,
    output: str | None = None,
    index: int | None = None,
    gradient: Path | None = None,
    targets: Mapping[str, Scalar] | None = None,
) -> Inspection:
    """What is in a model: inputs, outputs, and the layers that can be audited for one class, the first by default.

    A `gradient` graph that is supplied for these `targets` is compared with finite differences, and refused if wrong.
    """
    model = load(path)
    target, sentence = _any_target(model, output, index)
    checks = _verified(model, gradient, targets or {})
    layers = list_layers(model, target, supplied={check.layer for check in checks}) if target is not None else ()
    auto = choose_layers(model, target) if target is not None else ()
    return Inspection(
        inputs=[Tensor(name=one.name, dtype=one.dtype, shape=list(one.shape)) for one in model.inputs],
        outputs=[Tensor(name=one.name, dtype=one.dtype, shape=list(one.shape)) for one in model.outputs],
        layers=[
            ModelLayer(
                tensor=layer.tensor,
                operator=layer.op,
                shape=list(layer.shape),
                depth=layer.depth,
                auditable=layer.auditable,
                reason=layer.reason,
                auto=layer.tensor in auto,
            )
            for layer in layers
        ],
        target=sentence,
        gradient_checks=gradient_checks(checks, TOLERANCE),
        warnings=list(model.warnings),
    )


def _verified(model: Model, gradient: Path | None, targets: Mapping[str, Scalar]) -> tuple[Check, ...]:
    """The checks that a supplied gradient graph passed."""
    if gradient is None:
        return ()
    with about("/gradient/blob"):
        supplied = read_supplied(gradient, model)
    asked = []
    for name, scalar in targets.items():
        with about(f"/gradient/targets/{name}", "output", "index", "versus", "reduce"):
            asked.append(target_of(name, scalar))
            resolve_target(model, asked[-1])
    with about("/gradient/blob"):
        return verify(supplied, model, asked)


def inspect_examples(examples: Examples, blob: Blob) -> ExampleSummary:
    """What is in an example set; every example is decoded once, so that a corrupt one is named now."""
    source = _open("examples", examples, blob, seed=0)
    for _ in batches(source, 64):
        pass
    shape = next(iter(source.shapes.values()))
    return ExampleSummary(kind=source.kind, count=len(source), shape=list(shape), names=list(source.names[:10]))


def choose_provider(asked: str) -> tuple[Provider, list[str]]:
    """The execution provider that an audit gets, and a sentence where it is not the one asked for."""
    if asked == "cpu":
        return "cpu", []
    if asked == "auto" and not installed("cuda"):
        return "cpu", []
    reason = why_not("cuda")
    if reason is None:
        return "cuda", []
    wanted = "was asked for" if asked == "cuda" else "is installed"
    return "cpu", [f"CUDA {wanted} and is not available here, so the CPU was used: {reason}."]


def _any_target(model: Model, output: str | None, index: int | None) -> tuple[Target | None, str]:
    """A target that stands for an output, and the sentence that says what it reads; what was named must be there."""
    refusals = []
    reductions: tuple[Literal["mean"] | None, ...] = (None, "mean")
    for at, reduce in product((None, 0) if index is None else (index,), reductions):
        try:
            target = Target(name="target", output=output, index=at, reduce=reduce)
            return target, resolve_target(model, target).sentence
        except Refused as refused:
            refusals.append(refused)
    if output is not None or index is not None:
        with about("", "output", "index"):
            raise refusals[-1]
    return None, f"{refusals[-1].sentence} {refusals[-1].remedy}"


def loaded_key(audit: Audit, versions: Mapping[str, str]) -> str:
    """The key of what running an audit's model once has shown about it."""
    return key_of(loaded=audit.model, by=dict(versions))


def _load(path: Path, key: str, shelf: Shelf, interacts: bool | None) -> Model:
    """The model; what running it shows about it is known from the first time."""
    known = shelf.find(key)
    model = load(path, interacts=interacts if known is None else bool(known[0]))
    if known is None:
        shelf.keep(key, np.array([model.interacts]))
    return model


def _open(name: str, declared: Examples, blob: Blob, seed: int) -> ExampleSource:
    with about(f"/examples/{name}"):
        return open_examples(declared, blob, seed)


def each_batch(
    sources: Mapping[str, ExampleSource], sizes: Mapping[str, int], rows: Mapping[str, range] | None = None
) -> Iterator[tuple[str, Batch]]:
    """The batches of each example set, or of some of its rows; refusals say which one they are about."""
    for name, size in sizes.items():
        with about(f"/examples/{name}"):
            for batch in batches(sources[name], size, None if rows is None else rows[name]):
                yield name, batch


def _outline(source: ExampleSource) -> ExampleOutline:
    return ExampleOutline(shapes=source.shapes, keys=source.keys, optional=source.optional)


def counter(stage: Stage, until: Stage, whole: int, progress: Progress) -> Callable[[int], None]:
    """Turns counts of what is done into progress from the beginning of one stage to that of another."""
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        share = min(1.0, done / max(whole, 1))
        progress(stage, round(SHARES[stage] + (SHARES[until] - SHARES[stage]) * share, 4))

    count(0)
    return count


def _settings(plan: Plan) -> tuple[Settings, list[str]]:
    """The method as the statistics take it, with as many null sets as the correction needs, and what to say of it."""
    method = plan.audit.method
    asked = {field.name: getattr(method, field.name) for field in dataclasses.fields(Settings)}
    rows = len(plan.layers) * len(plan.targets) * len(plan.audit.concepts)
    fewest = fewest_null_sets(rows, method.alpha) if rows and method.correction != "none" else 0
    asked["null_sets"] = max(method.null_sets, fewest)
    asked["cross_check"] = method.cross_check if method.cross_check != method.estimator else None
    notes = []
    if fewest > method.null_sets:
        notes.append(
            f"{fewest} null sets were drawn in place of {method.null_sets}: with fewer, no row of {rows} could be "
            f"significant at {method.alpha:g} after the correction."
        )
    if rows and method.estimator == "linear_svm":
        notes.append(
            "Intervals by linear_svm miss planted effects more often than their level says, those by mean_difference "
            "and logistic do not (docs/validation.md): read its effects as a second opinion."
        )
    return Settings(**asked), notes


def _changes(plan: Plan, seen: Seen) -> dict[tuple[str, str], Change]:
    """The second witness, wherever examples come in pairs."""
    method = plan.audit.method
    return {
        (concept, name): intervention(
            _values(plan, name, seen.outputs[pairing.base, name])[list(pairing.without)],
            _values(plan, name, seen.outputs[pairing.concept, name])[list(pairing.with_concept)],
            sd=float(seen.values[name].std(ddof=1)),
            alpha=method.alpha,
            sets=method.null_sets,
            resamples=method.bootstrap,
            rng=np.random.default_rng([method.seed, *concept.encode(), 0, *name.encode()]),
            logits_without=seen.outputs[pairing.base, name][list(pairing.without)],
            logits_with=seen.outputs[pairing.concept, name][list(pairing.with_concept)],
            index=target.index,
            link=_link(plan, name),
        )
        for concept, pairing in plan.pairings.items()
        for name, target in plan.targets.items()
    }


def _values(plan: Plan, name: str, output: Floats) -> Floats:
    """The target's number [n] from the whole tensor [n, classes] that it is read from."""
    target = plan.targets[name]
    if plan.resolved[name].link == "two_sigmoids":
        return target_value(output if target.index == 1 else -output, scale=target.scale)
    return target_value(output, target.index, target.versus, target.scale)


def _link(plan: Plan, name: str) -> Link | None:
    """How scores become probabilities: by the model's own link, or softmax for several classes without one."""
    resolved = plan.resolved[name]
    if resolved.link in ("sigmoid", "two_sigmoids"):
        return "sigmoid"
    return "softmax" if resolved.classes != 1 else None


def _compared(plan: Plan, seen: Seen, asked: Group, source: ExampleSource) -> GroupComparison:
    """Recorded decisions, or the model's own, between groups of people."""
    from worker.engine.groups import compare_groups  # with fairlearn, whose import takes longer than a small audit

    assert source.columns is not None  # the audit's own validation: groups are compared in tables
    wanted = [*asked.sensitive, *filter(None, (asked.decision, asked.label))]
    columns = {name: series.to_numpy() for name, series in source.columns(wanted).items()}
    if asked.target is not None:
        decisions = _values(plan, asked.target, seen.outputs[asked.examples, asked.target]) > asked.threshold
    else:
        decisions = columns[str(asked.decision)]
    return compare_groups(
        decisions,
        {name: columns[name] for name in asked.sensitive},
        None if asked.label is None else columns[asked.label],
        alpha=plan.audit.method.alpha,
        resamples=plan.audit.method.bootstrap,
        rng=np.random.default_rng([plan.audit.method.seed, 2]),
    )


def _summaries(audit: Audit, sources: Mapping[str, ExampleSource]) -> list[ExampleSetSummary]:
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


def _thumbnail(audit: Audit, source: ExampleSource, position: int) -> str | None:
    if source.thumbnail is None or audit.method.pictures == "ids":
        return None
    picture = source.thumbnail(position, audit.method.pictures == "blurred")
    return "data:image/webp;base64," + base64.b64encode(picture).decode()


def _versions(engine: Engine) -> dict[str, str]:
    return {"caveat": engine.caveat, **engine.versions}


def _engine(provider: Provider) -> Engine:
    return Engine(
        caveat=version("caveat"), versions={library: version(library) for library in LIBRARIES}, provider=provider
    )
