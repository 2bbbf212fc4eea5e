"""The story of an audit: read, plan, collect, run the methods, assemble the report, decide."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from caveat_spec.artifacts import STAGES, Stage
from caveat_spec.audit import Audit
from caveat_spec.explained import Explained
from caveat_spec.gate import decide
from caveat_spec.maps import KeptCav
from caveat_spec.report import Engine, Look, Report
from caveat_worker.array_stores import scratch
from caveat_worker.engine.acting.directions import directions_method, find_directions, kept_cav, vector_sizes
from caveat_worker.engine.activations.batches import Batch
from caveat_worker.engine.activations.collect import collect
from caveat_worker.engine.activations.collected import Collected, Examples, Runtime, StepDirection
from caveat_worker.engine.activations.device import DeviceProducts
from caveat_worker.engine.activations.gram import inner
from caveat_worker.engine.activations.probabilities import probability_cautions
from caveat_worker.engine.activations.requirements import Plan
from caveat_worker.engine.autodiff.external_gradients import read_external_gradients
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.settle_branches import settle_branches
from caveat_worker.engine.base.arrays import AnyArray, Float64Array
from caveat_worker.engine.base.errors import error_context
from caveat_worker.engine.base.store import ArrayStore, Evicted
from caveat_worker.engine.concepts.activation_intervention import take_steps
from caveat_worker.engine.methods import Method, asked_methods, run_method
from caveat_worker.engine.onnx.session import Provider
from caveat_worker.engine.panels.choice import Source
from caveat_worker.engine.panels.explain import Means, explain, units
from caveat_worker.engine.panels.integrity import check_inputs
from caveat_worker.engine.panels.maps import Drawn, maps_file
from caveat_worker.engine.panels.planned import PlannedExplanation, plan_explanations
from caveat_worker.engine.plan import make_plan
from caveat_worker.engine.report import assemble
from caveat_worker.engine.versions.compared import check_version, compare_versions
from caveat_worker.loading import Blob, choose_provider, describe_engine, fed_by_name, load_model, versions_of
from caveat_worker.progress import Progress, counter
from caveat_worker.readers.batching import each_batch, first_examples
from caveat_worker.readers.class_names import read_class_names
from caveat_worker.readers.example_sets import (
    check_columns,
    fit_to,
    open_sets,
    outline_of,
    shapes_fed,
    summaries,
    thumbnail_of,
    warnings_of,
)
from caveat_worker.readers.icons import crop_of, words_of
from caveat_worker.readers.overlap import check_overlaps
from caveat_worker.readers.shown_pairs import shown_pairs
from caveat_worker.readers.source import ExampleSource
from caveat_worker.readers.unlike_pairs import check_pairs
from caveat_worker.sequential import (
    is_last,
    look_of,
    planned_looks,
    steps_decide,
    summary,
    with_steps,
    within,
    without_steps,
)

OpenStore = Callable[[], AbstractContextManager[ArrayStore]]
"""Opens the place where an audit's arrays are kept."""
KeepMaps = Callable[[bytes], None]
"""Takes the file of maps that belongs to the report."""
PANEL_PIXELS = 224
"""Side of the picture under a map."""


def run(
    audit: Audit,
    blob: Blob,
    progress: Progress,
    *,
    threads: int = 0,
    store: OpenStore = scratch,
    keep_maps: KeepMaps | None = None,
) -> Report:
    """Runs one audit whose sources are digests; raises InvalidInput for an audit that cannot be run."""
    try:
        with store() as kept:
            return conclude(prepare(audit, blob, progress, kept), progress, kept, threads=threads, keep_maps=keep_maps)
    except Evicted:  # others needed the room; what is missing now would be missing again
        with scratch() as kept:
            return conclude(prepare(audit, blob, progress, kept), progress, kept, threads=threads, keep_maps=keep_maps)


@dataclass(frozen=True)
class Prepared:
    """An audit whose model is loaded, whose example sets are open, and whose plan is made."""

    plan: Plan
    methods: Sequence[Method]
    sources: Mapping[str, ExampleSource]
    engine: Engine
    provider: Provider
    notes: list[str]
    explanations: Sequence[PlannedExplanation] = ()
    shuffled: Model | None = None
    """The model that was trained on shuffled labels, which explanations are held against."""
    others: Mapping[str, Model] = field(default_factory=dict)
    """Other versions of the model, by the audit's names."""

    @property
    def counts(self) -> dict[str, int]:
        """How many examples each set has."""
        return {name: len(source) for name, source in self.sources.items()}

    @property
    def versions(self) -> dict[str, str]:
        """The versions that decide the last bit of a number, beside the provider."""
        return versions_of(self.engine)

    def batches(self, name: str, size: int) -> Iterator[Batch]:
        """The examples of one set, in batches of at most `size`."""
        return (batch for _, batch in each_batch(self.sources, {name: size}))

    def labels(self, name: str, column: str) -> AnyArray:
        """A column [n] of one set's table."""
        read = self.sources[name].read_columns
        assert read is not None, "checked before"
        return read([column])[column]

    @property
    def examples(self) -> dict[str, Examples]:
        """The example sets as methods see them."""
        return {name: Examples(source.names, source.read_columns) for name, source in self.sources.items()}


def prepare(
    audit: Audit,
    blob: Blob,
    progress: Progress,
    kept: ArrayStore,
    *,
    interacts: bool | None = None,
    methods: Sequence[Method] | None = None,
) -> Prepared:
    """Everything before the first example goes through the model; `interacts` is known where an audit was divided.

    `methods` take the place of those that the audit asks for.
    """
    provider, notes = choose_provider(audit.method.provider)
    engine = describe_engine(provider)
    progress("loading", STAGES["loading"])
    with ThreadPoolExecutor(1) as reader:
        opened = open_sets(audit, blob, reader)
        with error_context("/model"):
            model = load_model(audit, blob, versions_of(engine), kept, interacts)
        with error_context("/gradient"):
            external = None if audit.gradient is None else read_external_gradients(blob(audit.gradient), model)
        with error_context("/labels"):
            labels = None if audit.labels is None else read_class_names(blob(audit.labels))
        shuffled, others = _load_shuffled(audit, blob, model), _load_versions(audit, blob, model)
        progress("reading", STAGES["reading"])
        sources = fit_to(model, {name: source.result() for name, source in opened.items()})
    fed = shapes_fed(model, sources)
    model, shuffled = settle_branches(model, fed), None if shuffled is None else settle_branches(shuffled, fed)
    others = {name: settle_branches(other, fed) for name, other in others.items()}
    check_columns(audit, sources)
    progress("planning", STAGES["planning"])
    methods = asked_methods(audit) if methods is None else methods
    outlines = {name: outline_of(one) for name, one in sources.items()}
    vectors = [directions_method(watch=False)] if "cavs" in audit.keeps else []
    plan = make_plan(audit, model, outlines, [*methods, *vectors], external, labels)
    methods = [method for method in methods if method.name not in plan.left_out]
    explanations = plan_explanations(plan, {name: source.names for name, source in sources.items()})
    warnings = [*notes, *warnings_of(sources)]
    return Prepared(plan, methods, sources, engine, provider, warnings, explanations, shuffled, others)


def _load_shuffled(audit: Audit, blob: Blob, model: Model) -> Model | None:
    """The model in `random_labels`; raises InvalidInput, pointing to it, where it takes other inputs."""
    if audit.random_labels is None:
        return None
    with error_context("/random_labels"):
        shuffled = _load_beside(audit, blob(audit.random_labels), model)
        check_inputs(model, shuffled)
    return shuffled


def _load_beside(audit: Audit, file: Path, model: Model) -> Model:
    """A model that takes the same inputs as the audited one."""
    return load(file, interacts=model.interacts, constants=audit.constants, fed=fed_by_name(audit))


def _load_versions(audit: Audit, blob: Blob, model: Model) -> dict[str, Model]:
    """The other versions that the audit names; raises InvalidInput, pointing to one that takes other inputs."""
    found = {}
    for name, asked in audit.compare.items():
        with error_context(f"/compare/{name}/model"):
            found[name] = _load_beside(audit, blob(asked.model), model)
        check_version(name, asked, model, found[name])
    return found


def conclude(
    ready: Prepared, progress: Progress, kept: ArrayStore, *, threads: int, keep_maps: KeepMaps | None = None
) -> Report:
    """Everything from the first example to the verdict."""
    ending: Stage = "explaining" if ready.explanations else "reporting"
    if ready.plan.audit.method.sequential is None:
        collected, report = measure(ready, progress, kept, threads=threads, until=ending)
    else:
        collected, report = look_by_look(ready, progress, kept, threads=threads, until=ending)
    cores = threads or os.cpu_count() or 1
    explained, drawn, maps = list[Explained](), list[list[Drawn]](), None
    if ready.explanations:
        counted = counter("explaining", "reporting", units(ready.explanations), progress)
        explained, drawn = explain(ready.plan, ready.explanations, means_of(ready, kept, cores, counted))
    if keeps := ready.plan.audit.keeps:
        found = _vectors(collected, _runtime(ready, kept, threads)) if "cavs" in keeps else []
        written, maps = maps_file(*((explained, drawn) if "maps" in keeps else ([], [])), found)
        if keep_maps is not None:
            keep_maps(written)
    versions = compare_versions(ready.plan, ready.others, ready.batches, ready.labels, provider=ready.provider)
    progress("reporting", STAGES["reporting"])
    return report.model_copy(update={"explanations": explained, "maps": maps, "versions": versions})


def _vectors(collected: Collected, runtime: Runtime) -> list[tuple[KeptCav, Float64Array]]:
    found = find_directions(collected, runtime, watch=False, sizes_of=vector_sizes)
    return [kept_cav(one) for one in found]


def collect_examples(
    ready: Prepared, progress: Progress, kept: ArrayStore, *, threads: int, before: Collected | None = None
) -> Collected:
    """What the model does with the examples of the plan; `before` is that of an earlier look."""
    return collect(
        ready.plan,
        ready.counts,
        partial(each_batch, ready.sources),
        kept,
        provider=ready.provider,
        versions=ready.versions,
        threads=threads,
        progress=counter("collecting", "testing", sum(ready.counts[name] for name in ready.plan.needs), progress),
        examples=ready.examples,
        before=before,
    )


def measure(
    ready: Prepared,
    progress: Progress,
    kept: ArrayStore,
    *,
    threads: int,
    until: Stage,
    before: Collected | None = None,
    later: list[StepDirection] | None = None,
) -> tuple[Collected, Report]:
    """The report without its explanations, and what the model did; `before` is that of an earlier look.

    Finite steps are left in `later`, where that is given.
    """
    plan, audit = ready.plan, ready.plan.audit
    collected = collect_examples(ready, progress, kept, threads=threads, before=before)
    cautions = probability_cautions(collected, partial(first_examples, ready.sources))
    tested = sum(method.units(plan) for method in ready.methods)
    runtime = replace(_runtime(ready, kept, threads), progress=counter("testing", until, tested, progress), later=later)
    results = [result for method in ready.methods for result in run_method(method, collected, runtime)]
    thumbnail = thumbnail_of(audit, ready.sources)
    report = assemble(
        collected,
        results,
        sets=summaries(audit, ready.sources),
        thumbnail=thumbnail,
        engine=ready.engine,
        warnings=[*ready.notes, *cautions, *check_overlaps(audit, ready.sources), *check_pairs(audit, ready.sources)],
        threads=runtime.cores,
    )
    shown = {
        "pairs": shown_pairs(audit, plan.pairings, ready.sources, thumbnail),
        "verdict": decide(report, audit.gate),
    }
    return collected, report.model_copy(update=shown)


def _runtime(ready: Prepared, kept: ArrayStore, threads: int) -> Runtime:
    return Runtime(
        store=kept,
        read=partial(each_batch, ready.sources),
        threads=threads,
        cores=threads or os.cpu_count() or 1,
        provider=ready.provider,
        multiply=inner if ready.provider == "cpu" else DeviceProducts(ready.provider),
    )


def look_by_look(
    ready: Prepared, progress: Progress, kept: ArrayStore, *, threads: int, until: Stage
) -> tuple[Collected, Report]:
    """What the model did, and the report, of the look that is the last.

    That is the first look that settles every line of the gate that all examples would settle, or the last of all.
    Each look is an audit of the examples so far, by the alpha that it spends; those of the looks before went through
    the model already. Finite steps, which change with the examples, only keep lines open: a look that goes on without
    them takes none.
    """
    asked, looks = ready.plan.audit, planned_looks(ready.plan, ready.sources)
    before, found, final = None, list[Look](), looks[-1]
    for number, look in enumerate(looks):
        there = replace(ready, plan=look.plan, sources=look.sources)
        shown = within(progress, number, len(looks), until)
        later = None if look is final or steps_decide(look.plan) else list[StepDirection]()
        before, report = measure(there, shown, kept, threads=threads, until=until, before=before, later=later)
        current = look_of(report, look, found, final)
        if later is not None and not is_last(current, len(asked.gate)):
            found.append(without_steps(current, look.plan, found))
            continue
        if later is not None:
            report = with_steps(report, take_steps(before, _runtime(there, kept, threads), later))
            current = look_of(report, look, found, final)
        found.append(current)
        if is_last(current, len(asked.gate)):
            break
    assert before is not None, "there is a look"
    return before, report.model_copy(update={"audit": asked, "sequential": summary(found, looks, ready.plan, report)})


def means_of(ready: Prepared, kept: ArrayStore, cores: int, counted: Callable[[int], None]) -> Means:
    """What explanations need beside the plan; `counted` hears of each element at an example."""

    def feeds(name: str, positions: Sequence[int]) -> Mapping[str, AnyArray]:
        with error_context(f"/examples/{name}"):
            return ready.plan.feeds(ready.sources[name].load(positions))

    def columns(name: str, wanted: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        read = ready.sources[name].read_columns
        assert read is not None, "the audit's own validation: labels are columns of tables"
        return read(wanted)

    def parts(name: str, position: int) -> Mapping[str, Sequence[str]]:
        source = ready.sources[name]
        named = {} if source.parts is None else source.parts(position)
        if source.kind == "text" and ready.plan.audit.method.pictures != "full":
            return {
                tensor: [f"token {number + 1}" for number in range(len(tokens))] for tensor, tokens in named.items()
            }
        return named

    return Means(
        source=Source(
            names={name: source.names for name, source in ready.sources.items()},
            keys={name: source.keys for name, source in ready.sources.items()},
            feeds=feeds,
            columns=columns,
            parts=parts,
        ),
        thumbnail=thumbnail_of(ready.plan.audit, ready.sources, PANEL_PIXELS),
        crop=crop_of(ready.plan.audit, ready.sources),
        words=words_of(ready.plan.audit, ready.sources),
        store=kept,
        provider=ready.provider,
        versions=ready.versions,
        cores=cores,
        shuffled=ready.shuffled,
        progress=counted,
    )
