"""The sections of docs/benchmarks.md: each measures something and says whether it is what was aimed at."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from bench.audits import Question, of_pictures, of_rows
from bench.measure import Case, Spent, in_turns, measured
from bench.networks import GOOGLENET_LAYERS, RESNET_LAYER, googlenet, resnet50
from examples.graph import save

MIB, GIB = 1 << 20, 1 << 30


def against_the_bound(folder: Path, rounds: int, quick: bool) -> str:
    """(a) An audit against one pass; the same question once more takes its turns with it."""
    question = of_pictures(folder, **({"concept": 20, "pool": 60, "targets": 20} if quick else {}))
    again = {"estimator": "ridge", "cross_check": "logistic", "alpha": 0.01}
    kept, empty = folder / "kept", folder / "empty"
    for place in (kept, empty):
        place.mkdir()
    measured(Case("bench.cases:fill", _given(question) | {"kept": str(kept)}))
    spent = in_turns(
        {
            "bound": Case("bench.cases:bound", _given(question)),
            "side by side": Case(
                "bench.cases:bound", _given(question) | {"batch": 8, "backward_batch": 4, "side_by_side": True}
            ),
            "audit": Case("bench.cases:audit", _given(question)),
            "logistic": Case(
                "bench.cases:audit", _given(question, estimator="logistic", cross_check="mean_difference")
            ),
            "cold": Case("bench.cases:audit", _given(question) | {"kept": str(empty)}),
            "warm": Case("bench.cases:audit", _given(question) | {"kept": str(kept)}),
            "other": Case("bench.cases:audit", _given(question, **again) | {"kept": str(kept)}),
        },
        rounds,
    )
    bound = spent["bound"]
    counts = question.counts()
    return f"""## An audit against its bound

GoogLeNet at 224 pixels; {", ".join(f"{count} {name}" for name, count in counts.items())}; layers `inception4c` (100,352
features) and `pool` (1,024); 500 runs, 499 null sets, 499 bootstrap resamples. The bound is one forward pass over
concepts and pool and one forward and backward pass over the target's examples, by ONNX Runtime sessions with the same
options that are open already and pictures that are in memory already, each batch on all cores as ONNX Runtime does by
itself; "side by side" runs as many batches at a time as there are cores, each on one, as the audit does. The audit is
everything from its document to its report: pictures are read from zips and decoded, the model is loaded, gradients are
made and checked, and a whole step is taken beside each slope, which the bound has no part of.

{
        _table(
            ["", "wall s", "CPU s", "peak MiB", "against the bound, wall", "CPU", "aim", "met"],
            [
                ["bound", *_spent(bound), "1", "1", "", ""],
                _against("bound, side by side", spent["side by side"], bound, None),
                _against("audit", spent["audit"], bound, 1.4),
                _against("audit, logistic CAVs", spent["logistic"], bound, None),
                _against("audit that fills an empty cache", spent["cold"], bound, None),
            ],
        )
    }
{_asked_again(spent)}"""


def _asked_again(spent: Mapping[str, Spent]) -> str:
    """(f) The second question beside the first."""
    cold = spent["cold"]
    return f"""## The same question again

With the arrays of the cold audit in the cache. Engine time, in a process that has imported it.

{
        _table(
            ["", "wall s", "CPU s", "cold : warm, wall", "CPU", "aim", "met"],
            [
                ["cold", *_spent(cold)[:2], "1", "1", "", ""],
                _faster("the same audit", cold, spent["warm"], 20),
                _faster("estimator ridge, cross-check logistic, alpha 0.01", cold, spent["other"], None),
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
    question = of_pictures(folder, concept=each, pool=each * many, targets=each)
    small = {"min_examples": min(each, 20)}
    spent = in_turns(
        {
            "audit, 10 runs": Case("bench.cases:audit", _given(question, runs=10, **small)),
            "audit": Case("bench.cases:audit", _given(question, **small)),
            "few": Case("bench.captum_tcav:tcav", _given(question) | {"random_sets": few, "each": each}),
            "many": Case("bench.captum_tcav:tcav", _given(question) | {"random_sets": many, "each": each}),
        },
        1,
    )
    return _beside_captum(spent, each, few, many)


def _beside_captum(spent: Mapping[str, Spent], each: int, few: int, many: int) -> str:
    """What was measured, and where a straight line through captum's two rows comes to at 500 runs."""
    ours, pooled, first, last = spent["audit, 10 runs"], spent["audit"], spent["few"], spent["many"]
    slope = (last.cpu - first.cpu) / (many - few)
    whole = last.cpu + slope * (500 - many)
    wall = last.wall + (last.wall - first.wall) / (many - few) * (500 - many)
    disk = last.told["disk"] / (many + 2) * 502
    fits = last.told["cavs_cpu"] / last.cpu
    return f"""## Against captum

captum 0.9.0 and torch, eager, on the CPU: the network's twin in torch with the same weights, the same pictures (as
tensors in memory, where ours are decoded from zips), the same layers and target. Its usual set-up: each of 2 concepts
against R random sets of {each} pictures, and random sets against each other; its default classifier, one process.
Both use all cores.

{
        _table(
            ["", "pictures", "experiments", "wall s", "CPU s", "peak MiB", "captum : ours, CPU", "aim", "met"],
            [
                ["captum, R = 2", each * (few + 3), 3 * few, *_spent(first), "", "", ""],
                [f"captum, R = {many}", each * (many + 3), 3 * many, *_spent(last), "", "", ""],
                [
                    f"ours on the same {each * (many + 3)} pictures, 10 runs a concept",
                    each * (many + 3),
                    "10 runs, 499 null sets",
                    *_spent(ours),
                    *_aimed(last.cpu / ours.cpu, 6),
                ],
                ["captum, R = 500, extrapolated", each * 503, 1500, f"{wall:,.0f}", f"{whole:,.0f}", "", "", "", ""],
                [
                    f"ours, 500 runs from a pool of {each * many}",
                    each * (many + 3),
                    "500 runs, 499 null sets",
                    *_spent(pooled),
                    *_aimed(whole / pooled.cpu, 200),
                ],
            ],
        )
    }
What the ratios share: the network, the weights, the layers, the target, and at R = {many} every picture. The last ratio
shares no more than that: **much of it is the pool**, {each * many} random pictures drawn from again and again in place
of {each * 500:,} fresh ones. The extrapolation is a straight line through the two rows above it, which flatters captum:
its CAVs, {fits:.0%} of its time at R = {many}, would need {disk / GIB:.0f} GiB of activations on disk.
Ours also gives what captum does not: exact fits, a permutation test, intervals, held-out accuracy and a second
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
                *_at_most(ours.cpu / eager.cpu, 0.9),
            ]
        )
    return f"""## Gradients against torch

Forward and backward to a layer for one class's logit, with the layer's activations, at a batch of 16: the gradient
graph in ONNX Runtime, and autograd in torch's eager mode with no gradient kept below the layer or for weights. torch
compiled, or with channels last, would be faster than eager.

{
        _table(
            ["a batch", "ours, wall s", "torch, wall s", "ours, CPU s", "torch, CPU s", "wall", "CPU", "aim", "met"],
            rows,
        )
    }"""


def scaling(folder: Path, rounds: int, quick: bool) -> str:
    """(d) What more examples, layers, concepts and runs cost, beside a model that costs nothing."""
    plain: dict[str, Any] = {"pool": 1000, "hidden": 1024, "features": 40}
    steps: dict[str, Sequence[int]] = {
        "pool": (500, 1000, 2000, 4000),
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
            cases[f"{size:,}"] = Case("bench.cases:audit", _given(question))
        spent = in_turns(cases, rounds)
        rows.append(
            [
                what,
                ", ".join(spent),
                ", ".join(f"{one.cpu:.2f}" for one in spent.values()),
                ", ".join(f"{(one.peak - one.before) / MIB:.0f}" for one in spent.values()),
            ]
        )
    return f"""## Scaling

A perceptron whose layers have 1,024 features, so that what is seen is not the model: a pool of 1,000 rows, 50 rows of
one concept and 50 of the target, one layer, 500 runs, and more of one thing at a time.

{_table(["more", "how many", "CPU s", "memory on top, MiB"], rows)}
Time grows with the square of the examples, since every two of them meet in the Gram matrix, and in line with layers,
concepts and runs.
"""


def bounded_memory(folder: Path, rounds: int, quick: bool) -> str:
    """A pool that no memory holds, under the limit that the sandbox sets."""
    pool, concept, features = (1_000, 50, 100_352) if quick else (10_000, 50, 100_352)
    limit = 2 * GIB
    rows = []
    for size in (pool // 4, pool):
        spent = measured(
            Case(
                "bench.cases:wide",
                {"folder": str(folder), "pool": size, "concept": concept, "features": features},
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
                "yes" if spent.told["rows"] else "no",
            ]
        )
    return f"""## Memory

A layer of {features:,} features under a model that is one random projection: 20 inputs, so that the model is small and
all that is seen is the audit's own. The process may allocate 2 GiB (`RLIMIT_DATA`, as the sandbox sets it), model and
libraries included; past {512} MiB arrays go to files, activations first and then inner products. The activations are
those of a model that runs, not made up; a network of ordinary depth would only take longer.

{
        _table(
            ["pool", "activations, GiB", "wall s", "CPU s", "peak MiB", "limit", "report"],
            rows,
        )
    }"""


def under_load(folder: Path, rounds: int, quick: bool) -> str:
    """(e) Submissions, the way there and back, and audits an hour."""
    from bench.service import an_hour, service, submissions, there_and_back

    tiny = of_rows(folder / "rows")
    with service() as at:
        rate = submissions(at, at.upload(tiny), 160 if quick else 1600, 8)
    engine = _engine_time(tiny)
    with service() as at, at.workers(1):
        back = there_and_back(at, at.upload(tiny), 3 if quick else 15)
    alone = {"CAVEAT_THREADS": "1", "CAVEAT_CACHE_BYTES": "0"}
    hours: dict[int, list[float]] = {1: [], 2: []}
    sizes = {"concept": 20, "pool": 40, "targets": 20} if quick else {"concept": 40, "pool": 160, "targets": 40}
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

The API in two processes over PostgreSQL and Valkey, clients over HTTP on the same machine, which they share with it.

{
        _table(
            ["", "measured", "aim", "met"],
            [
                ["POST /v1/audits, 8 clients, a second", *_aimed(rate["rate"], 150, "")],
                ["… its 99th percentile, ms", *_at_most(rate["p99"], 100)],
                ["… its median, ms", f"{rate['p50']:.0f}", "", ""],
                ["tiny audit (200 rows), engine alone, s", f"{engine:.2f}", "", ""],
                ["… from POST to report, s", f"{back['wall']:.2f}", "", ""],
                ["… beyond its engine time, s", *_at_most(back["wall"] - engine, 1.5)],
                ["audits an hour, one worker", f"{one:.0f}", "", ""],
                ["audits an hour, two workers", f"{two:.0f}", "", ""],
                ["… two workers : one", *_aimed(two / one, 1.7)],
            ],
        )
    }
Audits an hour are of pictures ({", ".join(f"{count} {name}" for name, count in sizes.items())}, GoogLeNet), eight at a
time, by workers with one core each and without a cache.
"""


def in_shards(folder: Path, rounds: int, quick: bool) -> str:
    """(e) One large audit by one worker, and by two that share it."""
    from bench.service import one_audit, service

    sizes = {"concept": 30, "pool": 60, "targets": 30} if quick else {"concept": 50, "pool": 1500, "targets": 50}
    question = of_pictures(folder / "pictures", layers=("pool",), concepts=1, network=resnet50, **sizes)
    alone = {"CAVEAT_THREADS": "1", "CAVEAT_CACHE_BYTES": "0"}
    ways = {1: {"CAVEAT_SHARD_BATCHES": "0"}, 2: {"CAVEAT_SHARD_BATCHES": "4" if quick else "60"}}
    spent: dict[int, list[float]] = {1: [], 2: []}
    reports: set[bytes] = set()
    shards = {"of": 0}
    with service() as at:
        audit = at.upload(question)
        for _ in range(min(rounds, 3)):
            for workers, told in ways.items():
                with at.workers(workers, a_core_each=True, **alone, **told):
                    seconds, record, report = one_audit(at, audit)
                spent[workers].append(seconds)
                reports.add(report)
                shards = record["shards"] or shards
    one, two = median(spent[1]), median(spent[2])
    return f"""## One audit on two workers

An audit of pictures ({", ".join(f"{count} {name}" for name, count in sizes.items())}; ResNet-50 at 224 pixels, layer
`pool`) from POST to report, over PostgreSQL and Valkey, by workers with one core each and without a cache. The two
take {shards["of"]} shards from the queue, and one of them puts the pieces together.

{
        _table(
            ["", "wall s", "one : two", "aim", "met"],
            [
                ["one worker", f"{one:.1f}", "", "", ""],
                ["two workers, in shards", f"{two:.1f}", *_aimed(one / two, 1.6)],
                ["reports equal, byte for byte", _yes(len(reports) == 1), "", "", ""],
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


def _given(question: Question, **method: Any) -> dict[str, Any]:
    """What a case is told of a question, with another method."""
    document = question.document | {"method": question.document["method"] | method}
    return {"folder": str(question.folder), "document": document}


def _spent(spent: Spent) -> list[str]:
    return [f"{spent.wall:.1f}", f"{spent.cpu:.1f}", f"{spent.peak / MIB:,.0f}"]


def _against(name: str, spent: Spent, bound: Spent, aim: float | None) -> list[str]:
    ratio = spent.wall / bound.wall
    met = ["≤ 1.4", _yes(ratio <= aim)] if aim is not None else ["", ""]
    return [name, *_spent(spent), f"{ratio:.2f}", f"{spent.cpu / bound.cpu:.2f}", *met]


def _faster(name: str, cold: Spent, warm: Spent, aim: float | None) -> list[str]:
    ratio = cold.wall / warm.wall
    met = [f"≥ {aim:g}", _yes(ratio >= aim)] if aim is not None else ["", ""]
    return [name, f"{warm.wall:.2f}", f"{warm.cpu:.2f}", f"{ratio:.0f}", f"{cold.cpu / warm.cpu:.0f}", *met]


def _aimed(figure: float, aim: float, unit: str = " x") -> list[str]:
    return [f"{figure:.3g}{unit}", f"≥ {aim:g}{unit}", _yes(figure >= aim)]


def _at_most(figure: float, aim: float) -> list[str]:
    return [f"{figure:.3g}", f"≤ {aim:g}", _yes(figure <= aim)]


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"
