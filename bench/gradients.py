"""`python -m bench.gradients` measures the gradient engine and writes docs/gradients.md and docs/operators.md.

Torch is the oracle and the peer for speed; it runs the same graph, node by node (tests/oracle/autograd.py).
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime

from worker.engine import (
    Refused,
    Target,
    check_gradients,
    differentiable_operators,
    differentiate,
    list_layers,
    load,
    open_session,
    resolve_target,
)
from worker.engine.rules import LOWERED, VJP

DOCS = Path(__file__).parent.parent / "docs"
TARGET = Target("t", index=0)


def operators() -> str:
    """docs/operators.md: the table of operators, by how their gradient is found."""
    rows = differentiable_operators()
    lines = [
        "# Operators",
        "",
        "Generated from the table in `worker/engine/rules/` by `python -m bench.gradients --operators`.",
        "An operator that is not here is refused by name where a gradient would have to pass it.",
        "",
    ]
    for domain in sorted({row[0] for row in rows}):
        ours = [row for row in rows if row[0] == domain]
        passing = sum(not way.startswith("no gradient") for *_, way in ours)
        lines += [f"## {domain}", "", f"{passing} operators that a gradient passes.", ""]
        lines += ["| operator | its gradient is found by |", "| --- | --- |"]
        lines += [f"| {name} | {way} |" for _, name, way in ours] + [""]
    return "\n".join(lines)


def backend_cases() -> Iterator[str]:
    """(a) ONNX's own node cases."""
    from tests.oracle.backend import cases, judge

    verdicts = [judge(case) for case in cases()]
    counts = Counter(v.outcome for v in verdicts)
    yield "## ONNX backend node cases"
    yield ""
    yield (
        f"{len(verdicts)} cases have an operator that a gradient passes, and a float input. In float64 by finite "
        f"differences in onnx's reference evaluator, or in float32 in ONNX Runtime where that has no float64 path: "
        f"{counts['passed']} pass, {counts['refused']} are refused by name, {counts['unjudged']} could not be judged, "
        f"{counts['wrong']} are wrong."
    )
    yield ""
    yield "| case | outcome | reason |"
    yield "| --- | --- | --- |"
    for v in verdicts:
        if v.outcome != "passed":
            yield f"| {v.case} | {v.outcome} | {v.reason.replace('|', '/')[:160]} |"
    yield ""


def fuzzing(examples: int) -> Iterator[str]:
    """(b) random attributes."""
    from tests.engine import test_rules_fuzz as fuzz

    yield "## Property fuzzing"
    yield ""
    yield "Linear operators by their adjoint in ONNX Runtime (exact), the others by finite differences."
    yield ""
    yield "| family | cases | outcome |"
    yield "| --- | --- | --- |"
    for family in (*fuzz.LINEAR, *fuzz.SMOOTH):
        try:
            (fuzz.fuzz_linear if family in fuzz.LINEAR else fuzz.fuzz_smooth)(family, examples)
            outcome = "no failure"
        except (AssertionError, ExceptionGroup) as failure:
            outcome = f"FAILED: {str(failure)[:100]}"
        yield f"| {family} | {examples} | {outcome} |"
    yield ""


def architectures(names: list[str]) -> Iterator[str]:
    """(c) whole graphs against float64 autograd, and their speed against torch."""
    import torch

    from tests.oracle.autograd import gradients, weights_of
    from tests.oracle.light import light

    torch.set_num_threads(1)
    yield "## Architectures"
    yield ""
    yield (
        "The light models inside the onnx package with seeded weights, every fifth layer and the input, batch freed "
        "from 1. Error is the largest relative L2 distance over layers to torch in float64, with every Relu and "
        "MaxPool made smooth; cosine is the smallest, as they are. Time is CPU seconds on one thread, forward and "
        "backward to the input, batch 4, float32, the best of three, "
        "weights already loaded in both. Torch runs the same graph node by node, from Python."
    )
    yield ""
    yield "| network | layers that can be audited | build, s | error, smooth | cosine, as is | ours | torch | ratio |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    ratios = []
    for name in names:
        errors: list[float] = []
        cosines: list[float] = []
        for smooth in (True, False):
            model = load(light(name, smooth=smooth))
            layers = list_layers(model, TARGET)
            chosen = [*(layer.tensor for layer in layers if layer.auditable)][::5]
            chosen.append(model.inputs[0].name)
            started = time.perf_counter()
            graph = differentiate(model, chosen, [TARGET])
            built = time.perf_counter() - started
            feeds = _noise(model, 2)
            ours = open_session(graph, threads=1).run(feeds)
            theirs = gradients(model.ir, feeds, chosen, resolve_target(model, TARGET).tensor, 0)
            for layer in chosen:
                a = ours[f"gradient/t/{layer}"].astype(np.float64).ravel()
                b = theirs[layer].numpy().ravel()
                errors += [float(np.linalg.norm(a - b) / np.linalg.norm(b))] if smooth else []
                cosines += [] if smooth else [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))]
        feeds, entry, logits = _noise(model, 4), model.inputs[0].name, resolve_target(model, TARGET).tensor
        session = open_session(differentiate(model, [entry], [TARGET]), threads=1)
        mine = _best(lambda session=session, feeds=feeds: session.run(feeds))
        held = weights_of(model.ir, torch.float32)
        peer = _best(
            lambda m=model, f=feeds, e=entry, z=logits, w=held: gradients(m.ir, f, [e], z, 0, torch.float32, w)
        )
        ratios.append(mine / peer)
        able = sum(layer.auditable for layer in layers)
        yield (
            f"| {name} | {able} of {len(layers)} | {built:.2f} | {max(errors):.1e} | {min(cosines):.6f} "
            f"| {mine:.2f} | {peer:.2f} | {mine / peer:.2f} |"
        )
    yield ""
    yield f"Median ratio {median(ratios):.2f}, largest {max(ratios):.2f}."
    yield ""


def exports() -> Iterator[str]:
    """(d) what torch and scikit-learn export."""
    from tests.oracle.exports import exported

    yield "## Exports"
    yield ""
    yield (
        "Hand-written networks by torch's two exporters, and scikit-learn's by skl2onnx: every layer that the plan "
        "calls auditable, against finite differences; and the gradient to the input against torch's in float64."
    )
    yield ""
    yield "| model | opset | layers that can be audited | fail | largest residual | cosine to torch |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, content, feeds, target, reference in exported():
        try:
            model = load(content)
            layers = list_layers(model, target)
            able = [layer.tensor for layer in layers if layer.auditable]
            checks = check_gradients(model, able, [target], feeds, seed=0, directions=3)
        except Refused as why:
            yield f"| {name} | | refused: {why.sentence} | | | |"
            continue
        cosine = "" if reference is None else f"{reference(model):.6f}"
        residual = max((check.residual for check in checks), default=0.0)
        failed = sum(not check.ok for check in checks)
        yield f"| {name} | {model.opset} | {len(able)} of {len(layers)} | {failed} | {residual:.1e} | {cosine} |"
    yield ""


def _noise(model: Any, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    shape = [batch, *(d if isinstance(d, int) else 4 for d in model.inputs[0].shape[1:])]
    return {model.inputs[0].name: rng.standard_normal(shape).astype(np.float32)}


def _best(work: Callable[[], Any], rounds: int = 3) -> float:
    work()
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> None:
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    from tests.oracle.light import NAMES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", action="store_true", help="write docs/operators.md alone")
    parser.add_argument("--examples", type=int, default=500, help="fuzz cases a family")
    parser.add_argument("--networks", nargs="*", default=NAMES)
    every = ["architectures", "exports", "fuzzing", "backend"]
    parser.add_argument("--parts", nargs="*", choices=every, default=every)
    arguments = parser.parse_args()
    (DOCS / "operators.md").write_text(operators())
    if arguments.operators:
        return
    lines = [
        "# Gradients, measured",
        "",
        f"Written by `python -m bench.gradients` with onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"Python {platform.python_version()}, on {platform.machine()}.",
        "",
        f"{len(VJP) + 1} operators have a rule and {len(LOWERED)} a formula: see [operators.md](operators.md).",
        "",
    ]
    parts = {
        "architectures": lambda: architectures(arguments.networks),
        "exports": exports,
        "fuzzing": lambda: fuzzing(arguments.examples),
        "backend": backend_cases,
    }
    for name in arguments.parts:
        for line in parts[name]():
            print(line, flush=True)
            lines.append(line)
    left_out = [name for name in parts if name not in arguments.parts]
    if left_out:
        print(f"docs/gradients.md is written by a complete run alone; left out: {', '.join(left_out)}.")
        return
    (DOCS / "gradients.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
