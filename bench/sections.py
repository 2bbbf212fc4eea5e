"""The sections of docs/benchmarks.md: each measures something and says whether the aim was met."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from bench.audits import Question, of_pictures, of_rows
from bench.measure import Case, Spent, in_turns, measured
from bench.networks import GOOGLENET_LAYERS, RESNET_LAYER, googlenet, resnet50
from bench.page import at_least, at_most, table, yes
from examples.graph import save

MIB, GIB = 1 << 20, 1 << 30
CHANGED: dict[str, dict[str, Any]] = {
    "alpha 0.01": {"alpha": 0.01},
    "correction none": {"correction": "none"},
    "cross-check none": {"cross_check": None},
    "estimator logistic": {"estimator": "logistic"},
    "estimator logistic, cross-check mean_difference, alpha 0.01": {
        "estimator": "logistic",
        "cross_check": "mean_difference",
        "alpha": 0.01,
    },
}
"""Questions of examples that the cache knows."""


def against_the_bound(folder: Path, rounds: int, quick: bool) -> str:
    """(a) An audit against one pass over its examples, and the same audit again from the cache."""
    question = of_pictures(folder, **({"concept": 20, "reference": 60, "targets": 20} if quick else {}))
    kept, empty = folder / "kept", folder / "empty"
    for place in (kept, empty):
        place.mkdir()
    measured(Case("bench.cases:fill", _arguments(question) | {"kept": str(kept)}))
    spent = in_turns(
        {
            "bound": Case("bench.cases:bound", _arguments(question)),
            "side by side": Case(
                "bench.cases:bound", _arguments(question) | {"batch": 8, "backward_batch": 4, "side_by_side": True}
            ),
            "audit": Case("bench.cases:audit", _arguments(question)),
            "logistic": Case(
                "bench.cases:audit", _arguments(question, estimator="logistic", cross_check="mean_difference")
            ),
            "cold": Case("bench.cases:audit", _arguments(question) | {"kept": str(empty)}),
            "warm": Case("bench.cases:audit", _arguments(question) | {"kept": str(kept)}),
            **{
                name: Case("bench.cases:audit", _arguments(question, **method) | {"kept": str(kept)})
                for name, method in CHANGED.items()
            },
        },
        rounds,
    )
    bound = spent["bound"]
    counts = question.counts()
    return f"""## An audit against its bound

GoogLeNet at 224 pixels; {", ".join(f"{count} {name}" for name, count in counts.items())}; layers `inception4c` (100,352
features) and `pool` (1,024); 500 runs, 499 permutations, 499 bootstrap resamples. The bound is one forward pass over
concepts and reference set and one forward and backward pass over the target's examples, by ONNX Runtime sessions that
are already open, with the same options, over pictures already in memory. Each batch uses all cores, as ONNX Runtime
does by default; "side by side" runs one batch on each core, as the audit does. The audit is
everything from its document to its report: it reads and decodes pictures from zips, loads the model, makes and checks
gradients, and takes a finite step beside each slope, none of which is part of the bound.

{
        table(
            ["", "wall s", "CPU s", "peak MiB", "wall : bound", "aim", "met", "CPU : bound", "aim", "met"],
            [
                ["bound", *_spent(bound), "1", "", "", "1", "", ""],
                _against("bound, side by side", spent["side by side"], bound, None, None),
                _against("audit", spent["audit"], bound, 1.15, 1.12),
                _against("audit, logistic CAVs", spent["logistic"], bound, None, 1.25),
                _against("audit that fills an empty cache", spent["cold"], bound, None, 1.15),
            ],
        )
    }
{_asked_again(spent)}"""


def _asked_again(spent: Mapping[str, Spent]) -> str:
    """(f) The same audit again, and with another question of the same examples, with a full cache."""
    cold = spent["cold"]
    return f"""## The same question again, and another one

The cache holds what the cold audit left: by mean differences, cross-checked by logistic regression, alpha 0.05. Each
row changes one thing of the audit's method, and the last three at once. Engine time, in a process that has already
imported the engine.

{
        table(
            ["", "wall s", "CPU s", "cold : warm, wall", "CPU", "aim", "met"],
            [
                ["cold", *_spent(cold)[:2], "1", "1", "", ""],
                _faster("the same audit", cold, spent["warm"], 20),
                *(_faster(name, cold, spent[name], 8) for name in CHANGED),
            ],
        )
    }"""


def against_captum(folder: Path, rounds: int, quick: bool) -> str:
    """(b) The same network, weights and pictures in captum."""
    if find_spec("captum") is None or find_spec("torch") is None:
        return (
            "## Against captum\n\nNot measured: torch and captum are not installed here (`make bench` installs them).\n"
        )
    each, few, many = (10, 2, 3) if quick else (50, 2, 10)
    question = of_pictures(folder, concept=each, reference=each * many, targets=each)
    small = {"min_examples": min(each, 20)}
    spent = in_turns(
        {
            "audit, 10 runs": Case("bench.cases:audit", _arguments(question, runs=10, **small)),
            "audit": Case("bench.cases:audit", _arguments(question, **small)),
            "few": Case("bench.captum_tcav:tcav", _arguments(question) | {"random_sets": few, "each": each}),
            "many": Case("bench.captum_tcav:tcav", _arguments(question) | {"random_sets": many, "each": each}),
        },
        1,
    )
    return _beside_captum(spent, each, few, many)


def _beside_captum(spent: Mapping[str, Spent], each: int, few: int, many: int) -> str:
    """What was measured, and captum's time at 500 runs by a straight line through its two rows."""
    ours, larger, first, last = spent["audit, 10 runs"], spent["audit"], spent["few"], spent["many"]
    slope = (last.cpu - first.cpu) / (many - few)
    whole = last.cpu + slope * (500 - many)
    wall = last.wall + (last.wall - first.wall) / (many - few) * (500 - many)
    disk = last.figures["disk"] / (many + 2) * 502
    fits = last.figures["cavs_cpu"] / last.cpu
    return f"""## Against captum

captum 0.9.0 and torch, eager, on the CPU: the same network in torch with the same weights, the same pictures (tensors
in memory for captum; Caveat decodes them from zips), the same layers and target. captum has its usual set-up: each of 2
concepts against R random sets of {each} pictures, and random sets against each other, with its default classifier, in
one process. Both use all cores.

{
        table(
            ["", "pictures", "experiments", "wall s", "CPU s", "peak MiB", "captum : ours, CPU", "aim", "met"],
            [
                ["captum, R = 2", each * (few + 3), 3 * few, *_spent(first), "", "", ""],
                [f"captum, R = {many}", each * (many + 3), 3 * many, *_spent(last), "", "", ""],
                [
                    f"ours on the same {each * (many + 3)} pictures, 10 runs a concept",
                    each * (many + 3),
                    "10 runs, 499 permutations",
                    *_spent(ours),
                    *at_least(last.cpu / ours.cpu, 6),
                ],
                ["captum, R = 500, extrapolated", each * 503, 1500, f"{wall:,.0f}", f"{whole:,.0f}", "", "", "", ""],
                [
                    f"ours, 500 runs from a reference set of {each * many}",
                    each * (many + 3),
                    "500 runs, 499 permutations",
                    *_spent(larger),
                    *at_least(whole / larger.cpu, 200),
                ],
            ],
        )
    }
Both sides of each ratio share the network, the weights, the layers, the target, and at R = {
        many
    } every picture. The last
ratio shares nothing more: **much of it is the reference set**, {each * many} random pictures that are drawn from again
and again in place of {each * 500:,} fresh ones. The extrapolation is a straight line through the two rows above it,
which flatters captum: its CAVs, {fits:.0%} of its time at R = {many}, would need {
        disk / GIB:.0f} GiB of activations on disk.
Caveat's report also has what captum's lacks: exact fits, a permutation test, intervals, held-out accuracy and a second
estimator.
"""


def against_eager(folder: Path, rounds: int, quick: bool) -> str:
    """(c) Gradients against torch's autograd."""
    if find_spec("torch") is None:
        return "## Gradients against torch\n\nNot measured: torch is not installed here (`make bench` installs it).\n"
    rows = []
    for network, layer in ((googlenet, GOOGLENET_LAYERS[0]), (resnet50, RESNET_LAYER)):
        path = folder / f"{network.__name__}.onnx"
        save(network(), path)
        given = {"network": str(path), "layer": layer, "batch": 4 if quick else 16}
        spent = in_turns(
            {
                "ours": Case("bench.cases:gradient", given),
                "torch": Case("bench.cases:gradient_in_torch", given),
            },
            rounds,
        )
        ours, eager = spent["ours"], spent["torch"]
        rows.append(
            [
                f"{network.__name__} to `{layer}`",
                f"{ours.wall / 3:.2f}",
                f"{eager.wall / 3:.2f}",
                f"{ours.cpu / 3:.2f}",
                f"{eager.cpu / 3:.2f}",
                f"{ours.wall / eager.wall:.2f}",
                *at_most(ours.cpu / eager.cpu, 0.9),
            ]
        )
    return f"""## Gradients against torch

One class's logit, forward and backward to a layer, with the layer's activations, at a batch of 16: the gradient graph
in ONNX Runtime, and autograd in torch's eager mode with no gradients below the layer or for weights. Compiled torch, or
torch with channels last, would be faster than eager.

{
        table(
            ["a batch", "ours, wall s", "torch, wall s", "ours, CPU s", "torch, CPU s", "wall", "CPU", "aim", "met"],
            rows,
        )
    }"""


def scaling(folder: Path, rounds: int, quick: bool) -> str:
    """(d) What more examples, layers, concepts and runs cost, beside a model that costs nothing."""
    plain: dict[str, Any] = {"reference": 1000, "hidden": 1024, "features": 40}
    steps: dict[str, Sequence[int]] = {
        "reference": (500, 1000, 2000, 4000),
        "layers": (1, 2, 4, 8),
        "concepts": (1, 2, 4, 8),
        "runs": (500, 5_000, 50_000),
    }
    rows = []
    for what, sizes in steps.items():
        sizes = sizes[:2] if quick else sizes
        cases = {}
        for size in sizes:
            question = of_rows(folder / f"{what}{size}", **{**plain, what: size})
            cases[f"{size:,}"] = Case("bench.cases:audit", _arguments(question))
        spent = in_turns(cases, rounds)
        rows.append(
            [
                what.replace("reference", "reference set"),
                ", ".join(spent),
                ", ".join(f"{one.cpu:.2f}" for one in spent.values()),
                ", ".join(f"{(one.peak - one.before) / MIB:.0f}" for one in spent.values()),
            ]
        )
    return f"""## Scaling

A perceptron whose layers have 1,024 features, so that the model itself costs next to nothing: a reference set of 1,000
rows, 50 rows of one concept and 50 of the target, one layer, 500 runs; each row of the table raises one of these.

{table(["raised", "how many", "CPU s", "memory on top, MiB"], rows)}
Time grows with the square of the number of examples while they are fewer than two for each feature, because the Gram
matrix holds every pair of them; from there on linearly, as with layers, concepts and runs.
"""


def large_tables(folder: Path, rounds: int, quick: bool) -> str:
    """(i) Tables of many rows under a layer of few features."""
    sizes = (1_000, 2_000) if quick else (25_000, 50_000, 100_000)
    asked = {"50 rows": lambda size: 50, "a third of the rows": lambda size: size // 3}
    rows = []
    for what, concept in asked.items():
        cases = {}
        for size in sizes:
            share = {"concept": concept(size), "targets": 200, "features": 40}
            question = of_rows(folder / f"{what}{size}", reference=size - concept(size) - 200, **share)
            cases[f"{size:,}"] = Case("bench.cases:audit", _arguments(question))
        for size, spent in in_turns(cases, rounds).items():
            most = size == "100,000"
            seconds = at_most(spent.wall, 10) if most else [f"{spent.wall:.2f}", "", ""]
            memory = at_most(spent.resident / MIB, 1024) if most else [f"{spent.resident / MIB:,.0f}", "", ""]
            rows.append([what, size, f"{spent.cpu:.2f}", *seconds, *memory])
    return f"""## Large tables

Rows of 40 columns, a layer of 64 features, one concept of so many of the rows, 200 target examples, 500 runs, 499
permutations, 499 resamples and 99 shuffled labellings in 5 folds. Memory is the most that the whole process ever had
(`VmHWM`), libraries included. A layer with so few features is not multiplied out into inner products of all rows.

{table(["concept", "rows", "CPU s", "wall s", "aim", "met", "resident MiB", "aim", "met"], rows)}"""


def bounded_memory(folder: Path, rounds: int, quick: bool) -> str:
    """A reference set larger than memory, under the limit that the sandbox sets."""
    reference, concept, features = (1_000, 50, 100_352) if quick else (10_000, 50, 100_352)
    limit = 2 * GIB
    rows = []
    for size in (reference // 4, reference):
        spent = measured(
            Case(
                "bench.cases:wide",
                {"folder": str(folder), "reference": size, "concept": concept, "features": features},
                limit,
            )
        )
        rows.append(
            [
                f"{size:,}",
                f"{size * features * 4 / GIB:.1f}",
                f"{spent.wall:.0f}",
                f"{spent.cpu:.0f}",
                f"{spent.peak / MIB:,.0f}",
                "2,048 MiB",
                "yes" if spent.figures["tests"] else "no",
            ]
        )
    return f"""## Memory

A layer of {
        features:,} features under a model that is one random projection of 20 inputs, so that the model is small and
the memory is the audit's own. The process may allocate 2 GiB (`RLIMIT_DATA`, as the sandbox sets it), model and
libraries included; past {512} MiB, arrays go to files, activations first and then inner products. A real model run
gives the activations; a network of ordinary depth would only take longer.

{
        table(
            ["reference set", "activations, GiB", "wall s", "CPU s", "peak MiB", "limit", "report"],
            rows,
        )
    }"""


def under_load(folder: Path, rounds: int, quick: bool) -> str:
    """(e) Submissions, seconds from POST to report, and audits an hour."""
    from bench.service import an_hour, service, submissions, there_and_back

    tiny = of_rows(folder / "rows")
    with service() as at:
        rate = submissions(at, at.upload(tiny), 160 if quick else 1600, 8)
    engine = _engine_time(tiny)
    with service() as at, at.workers(1):
        back = there_and_back(at, at.upload(tiny), 3 if quick else 15)
    alone = {"CAVEAT_THREADS": "1", "CAVEAT_CACHE_BYTES": "0"}
    hours: dict[int, list[float]] = {1: [], 2: []}
    sizes = (
        {"concept": 20, "reference": 40, "targets": 20} if quick else {"concept": 40, "reference": 160, "targets": 40}
    )
    with service() as at:
        audit = at.upload(of_pictures(folder / "pictures", **sizes))
        for _ in range(min(rounds, 3)):
            for workers in (1, 2):
                seeds = range(2 if quick else 8)
                asked = [audit | {"method": audit["method"] | {"seed": seed}} for seed in seeds]
                with at.workers(workers, a_core_each=True, **alone):
                    hours[workers].append(an_hour(at, asked))
    one, two = median(hours[1]), median(hours[2])
    return f"""## The service

The API runs in two processes over PostgreSQL and Valkey; its HTTP clients run on the same machine and share its cores.

{
        table(
            ["", "measured", "aim", "met"],
            [
                ["POST /v1/audits, 8 clients, a second", *at_least(rate["rate"], 150, "")],
                ["… its 99th percentile, ms", *at_most(rate["p99"], 100)],
                ["… its median, ms", f"{rate['p50']:.0f}", "", ""],
                ["tiny audit (200 rows), engine alone, s", f"{engine:.2f}", "", ""],
                ["… from POST to report, s", f"{back['wall']:.2f}", "", ""],
                ["… beyond its engine time, s", *at_most(back["wall"] - engine, 1.5)],
                ["audits an hour, one worker", f"{one:.0f}", "", ""],
                ["audits an hour, two workers", f"{two:.0f}", "", ""],
                ["… two workers : one", *at_least(two / one, 1.7)],
            ],
        )
    }
Audits an hour are of pictures ({", ".join(f"{count} {name}" for name, count in sizes.items())}, GoogLeNet), eight at a
time, on workers with one core each and no cache.
"""


def in_shards(folder: Path, rounds: int, quick: bool) -> str:
    """(e) One large audit on one worker, and in shards on two."""
    from bench.service import one_audit, service

    sizes = (
        {"concept": 30, "reference": 60, "targets": 30} if quick else {"concept": 50, "reference": 1500, "targets": 50}
    )
    question = of_pictures(folder / "pictures", layers=("pool",), concepts=1, network=resnet50, **sizes)
    alone = {"CAVEAT_THREADS": "1", "CAVEAT_CACHE_BYTES": "0"}
    ways = {1: {"CAVEAT_SHARD_BATCHES": "0"}, 2: {"CAVEAT_SHARD_BATCHES": "4" if quick else "60"}}
    spent: dict[int, list[float]] = {1: [], 2: []}
    reports: set[bytes] = set()
    shards = {"of": 0}
    with service() as at:
        audit, tiny = at.upload(question), at.upload(of_rows(folder / "rows"))
        for _ in range(min(rounds, 3)):
            for workers, settings in ways.items():
                with at.workers(workers, a_core_each=True, **alone, **settings):
                    at.ended([at.submit(tiny) for _ in range(workers)])  # whatever a worker does once
                    seconds, record, report = one_audit(at, audit)
                spent[workers].append(seconds)
                reports.add(report)
                shards = record["shards"] or shards
    one, two = median(spent[1]), median(spent[2])
    return f"""## One audit on two workers

An audit of pictures ({", ".join(f"{count} {name}" for name, count in sizes.items())}; ResNet-50 at 224 pixels, layer
`pool`) from POST to report, over PostgreSQL and Valkey, on workers with one core each and no cache, each of which has
run an audit before. The two workers take {shards["of"]} shards from the queue, and one of them merges the results. The
API, PostgreSQL and Valkey share their cores, of which one worker leaves them one.

{
        table(
            ["", "wall s", "one : two", "aim", "met"],
            [
                ["one worker", f"{one:.1f}", "", "", ""],
                ["two workers, in shards", f"{two:.1f}", *at_least(one / two, 1.85)],
                ["reports equal, byte for byte", yes(len(reports) == 1), "", "", ""],
            ],
        )
    }"""


def _engine_time(question: Question) -> float:
    """Seconds of the pipeline alone, in this process, once everything is imported."""
    spent = []
    os.chdir(question.folder)
    for _ in range(6):
        gc.collect()
        started = time.perf_counter()
        question.run(threads=1)
        spent.append(time.perf_counter() - started)
    return median(spent[1:])


def _arguments(question: Question, **method: Any) -> dict[str, Any]:
    """The arguments of a case for a question, with another method."""
    document = question.document | {"method": question.document["method"] | method}
    return {"folder": str(question.folder), "document": document}


def _spent(spent: Spent) -> list[str]:
    return [f"{spent.wall:.1f}", f"{spent.cpu:.1f}", f"{spent.peak / MIB:,.0f}"]


def _against(name: str, spent: Spent, bound: Spent, wall: float | None, cpu: float | None) -> list[str]:
    ratios = (spent.wall / bound.wall, wall), (spent.cpu / bound.cpu, cpu)
    shown = [
        each for ratio, aim in ratios for each in ([f"{ratio:.2f}", "", ""] if aim is None else at_most(ratio, aim))
    ]
    return [name, *_spent(spent), *shown]


def _faster(name: str, cold: Spent, warm: Spent, aim: float | None) -> list[str]:
    ratio = cold.wall / warm.wall
    met = [f"≥ {aim:g}", yes(ratio >= aim)] if aim is not None else ["", ""]
    return [name, f"{warm.wall:.2f}", f"{warm.cpu:.2f}", f"{ratio:.0f}", f"{cold.cpu / warm.cpu:.0f}", *met]
