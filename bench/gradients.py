"""`python -m bench.gradients` measures the gradient engine and writes docs/gradients.md and docs/operators.md.

Torch is the oracle and the peer for speed; it runs the same graph, node by node (tests/oracle/autograd.py).
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import platform
import subprocess
import tempfile
import textwrap
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
    Model,
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

PARTS = ("architectures", "exports", "trained", "large", "fuzzing", "backend")
ROUNDS = 7
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

    yield "Linear operators by their adjoint in ONNX Runtime (exact), the others by finite differences."
    yield ""
    yield "| family | cases | outcome |"
    yield "| --- | --- | --- |"
    families = (*fuzz.LINEAR, *fuzz.SMOOTH)
    for family in families:
        try:
            (fuzz.check_adjoints if family in fuzz.LINEAR else fuzz.check_differences)(family, examples)
            outcome = "no failure"
        except (AssertionError, ExceptionGroup) as failure:
            outcome = f"FAILED: {str(failure)[:100]}"
        yield f"| {family} | {examples} | {outcome} |"
    yield ""
    yield f"{len(families) * examples:,} cases in all."
    yield ""


def architectures(names: list[str]) -> Iterator[str]:
    """(c) whole graphs against float64 autograd, and their speed against torch."""
    import torch

    from tests.oracle.light import light

    torch.set_num_threads(1)
    yield (
        "The light models inside the onnx package with seeded weights, every fifth layer and the input, batch freed "
        "from 1. Error is the largest relative L2 distance over layers to torch in float64, with every Relu and "
        "MaxPool made smooth, and beside it what torch itself comes to in float32; cosine is the smallest, as they "
        f"are. Time is CPU seconds on one thread, forward and backward to the input, batch 4, float32, the median of "
        f"{ROUNDS} rounds in which both take turns, weights already loaded in both. Torch runs the same graph node by "
        "node, from Python."
    )
    yield ""
    yield (
        "| network | layers that can be audited | error, smooth | torch in float32 | cosine, as is | ours | torch "
        "| ratio |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    ratios, excesses = [], []
    for name in names:
        errors, floors, _ = _beside_torch(load(light(name, smooth=True)))
        model = load(light(name))
        _, _, cosines = _beside_torch(model)
        mine, peer = _raced(model)
        ratios.append(mine / peer)
        excesses.append(max(errors) / max(floors))
        layers = list_layers(model, TARGET)
        able = sum(layer.auditable for layer in layers)
        yield (
            f"| {name} | {able} of {len(layers)} | {max(errors):.1e} | {max(floors):.1e} "
            f"| {min(cosines):.6f} | {mine:.2f} | {peer:.2f} | {mine / peer:.2f} |"
        )
    yield ""
    yield (
        f"Median ratio {median(ratios):.2f}, largest {max(ratios):.2f}. The error is at most {max(excesses):.1f} times "
        "torch's own in float32 on the same graph."
    )
    yield ""


def _beside_torch(model: Model) -> tuple[list[float], list[float], list[float]]:
    """At every fifth layer and the input: relative L2 distances to torch in float64, torch's own, and cosines."""
    import torch

    from tests.oracle.autograd import gradients

    layers = [*(layer.tensor for layer in list_layers(model, TARGET) if layer.auditable)][::5]
    layers.append(model.inputs[0].name)
    feeds, logits = _noise(model, 2), resolve_target(model, TARGET).tensor
    ours = open_session(differentiate(model, layers, [TARGET]), threads=1).run(feeds)
    theirs = gradients(model.ir, feeds, layers, logits, 0)
    single = gradients(model.ir, feeds, layers, logits, 0, torch.float32)
    errors, floors, cosines = [], [], []
    for layer in layers:
        a = ours[f"gradient/t/{layer}"].astype(np.float64).ravel()
        b = theirs[layer].numpy().ravel()
        c = single[layer].double().numpy().ravel()
        errors.append(float(np.linalg.norm(a - b) / np.linalg.norm(b)))
        floors.append(float(np.linalg.norm(c - b) / np.linalg.norm(b)))
        cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return errors, floors, cosines


def _raced(model: Model) -> list[float]:
    """CPU seconds of the gradient to the input, ours and torch's, with weights already loaded in both."""
    import torch

    from tests.oracle.autograd import gradients, weights_of

    feeds, entry, logits = _noise(model, 4), model.inputs[0].name, resolve_target(model, TARGET).tensor
    session = open_session(differentiate(model, [entry], [TARGET]), threads=1)
    weights = weights_of(model.ir, torch.float32)
    return _in_turns(
        lambda: session.run(feeds),
        lambda: gradients(model.ir, feeds, [entry], logits, 0, torch.float32, weights),
    )


def exports(keras: str | None) -> Iterator[str]:
    """(d) what torch, scikit-learn and Keras export."""
    from tests.oracle.exports import exported

    yield (
        "Hand-written networks by torch's two exporters, scikit-learn's by skl2onnx, and Keras networks with SAME "
        "padding by tf2onnx (`bench/keras.py`): every layer that the plan calls auditable, against finite differences; "
        "and the gradient to the input against torch's in float64."
    )
    yield ""
    yield "| model | opset | layers that can be audited | compared | fail | largest residual | cosine to torch |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, content, feeds, target, reference in exported():
        yield _agreement(name, content, feeds, target, reference=reference)
    if keras is None:
        yield "| Keras, tf2onnx | | not measured: `--keras` names no Python with tensorflow and tf2onnx | | | | |"
    else:
        with tempfile.TemporaryDirectory() as folder:
            quiet = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
            subprocess.run([keras, str(Path(__file__).with_name("keras.py")), folder], check=True, env=quiet)
            for name, file in (("Keras CNN", "cnn"), ("Keras MobileNetV2", "mobilenetv2")):
                content = Path(folder, f"keras-{file}.onnx").read_bytes()
                yield _agreement(f"{name}, tf2onnx", content, _noise(load(content), 2), Target("t", index=1))
    yield ""


def networks() -> Iterator[str]:
    """(e) real trained files."""
    from tests.oracle.trained import trained

    yield (
        "Files that packages carry, on photographs, drawn lines of text, source code and sentences: every fifth layer "
        "that the plan calls auditable, against finite differences."
    )
    yield ""
    yield "| model | opset | layers that can be audited | compared | fail | largest residual | |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, content, feeds, target in trained():
        yield _agreement(name, content, feeds, target, step=5)
    yield ""


def _agreement(name: str, content: bytes, feeds: Any, target: Target, *, step: int = 1, reference: Any = None) -> str:
    """A row: how many layers there are, and how well every `step`-th agrees with finite differences."""
    try:
        model = load(content)
        layers = list_layers(model, target)
        able = [layer.tensor for layer in layers if layer.auditable]
        compared = able[::step]
        checks = check_gradients(model, compared, [target], feeds, seed=0, directions=8)
    except Refused as why:
        return f"| {name} | | refused: {why.sentence} | | | | |"
    cosine = "" if reference is None else f"{reference(model):.6f}"
    residual = max((check.residual for check in checks), default=0.0)
    failed = sum(not check.ok for check in checks)
    return (
        f"| {name} | {model.opset} | {len(able)} of {len(layers)} | {len(compared)} | {failed} | {residual:.1e} "
        f"| {cosine} |"
    )


def large() -> Iterator[str]:
    """(f) large models: what building the graph costs."""
    from tests.oracle.large import perceptron
    from tests.oracle.light import light

    yield (
        "*Build* is `differentiate`, from a loaded model to a graph that is ready to be opened, in seconds on the "
        "clock, the median of five: for a network the gradient at every fifth layer and the input, for a perceptron of "
        "square layers at the first hidden one."
    )
    yield ""
    yield "| model | weights | in | layers | build, s |"
    yield "| --- | --- | --- | --- | --- |"
    for name in ("densenet121", "resnet50", "vgg19"):
        content = light(name)
        model = load(content)
        chosen = [layer.tensor for layer in list_layers(model, TARGET) if layer.auditable][::5]
        chosen.append(model.inputs[0].name)
        yield f"| {name} | {len(content) / 1e6:,.0f} MB | one file | {len(chosen)} | {_built(model, chosen):.3f} |"
    for width, layers, external in ((4800, 6, False), (9600, 6, True)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            perceptron(path, width, layers, external=external)
            size = sum(file.stat().st_size for file in Path(folder).iterdir())
            model = load(path, bundle=Path(folder))
            where = "external data" if external else "one file"
            yield f"| perceptron | {size / 1e6:,.0f} MB | {where} | 1 | {_built(model, ['hidden0']):.3f} |"
            del model
    yield ""


def _built(model: Any, layers: list[str]) -> float:
    """The median of five times that it takes to make a gradient graph."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        differentiate(model, layers, [TARGET])
        times.append(time.perf_counter() - started)
    return median(times)


def _noise(model: Any, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    shape = [batch, *(d if isinstance(d, int) else 4 for d in model.inputs[0].shape[1:])]
    return {model.inputs[0].name: rng.standard_normal(shape).astype(np.float32)}


def _in_turns(*works: Callable[[], Any]) -> list[float]:
    """The median of each one's CPU seconds, over rounds in which each runs once, after one that does not count."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS + 1):
        for one, spent in zip(works, times, strict=True):
            started = time.process_time()
            one()
            spent.append(time.process_time() - started)
    return [median(spent[1:]) for spent in times]


def main() -> None:
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    from tests.oracle.light import NAMES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", action="store_true", help="write docs/operators.md alone")
    parser.add_argument("--examples", type=int, default=1850, help="fuzz cases a family")
    parser.add_argument("--keras", help="a Python that has tensorflow-cpu, tf_keras and tf2onnx, to export with")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="sections to measure; others stay")
    arguments = parser.parse_args()
    (DOCS / "operators.md").write_text(operators())
    if arguments.operators:
        return
    parts = {
        "Architectures": lambda: architectures(NAMES),
        "Exports": lambda: exports(arguments.keras),
        "Trained networks": networks,
        "Large models": large,
        "Property fuzzing": lambda: fuzzing(arguments.examples),
        "ONNX backend node cases": backend_cases,
    }
    measured = {}
    for name, (title, measure) in zip(PARTS, parts.items(), strict=True):
        if name in arguments.parts:
            print(f"## {title}\n", flush=True)
            measured[title] = ""
            for line in measure():
                print(line, flush=True)
                measured[title] += f"{line}\n"
    page = DOCS / "gradients.md"
    before = dict(section.split("\n\n", 1) for section in page.read_text().split("\n## ")[1:])
    sections = dict.fromkeys(parts, "Not measured yet.") | before | measured
    page.write_text("\n".join([head(), *(f"## {title}\n\n{sections[title].rstrip()}\n" for title in parts)]))


def head() -> str:
    """What the page begins with."""
    files = ", ".join(f"`{name}.py`" for name in PACKAGE)
    return f"""\
# Gradients, measured

Written by `make gradients`, section by section, with onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__},
Python {platform.python_version()}, on {platform.machine()} with {os.cpu_count()} cores.

{len(VJP) + 1} operators have a rule and {len(LOWERED)} a formula: see [operators.md](operators.md). The longest rule
has {max(rule_lengths())} lines, the median {median(rule_lengths()):g}; all that differentiates (`rules/`, {files})
has {code_lines():,} lines of code, docstrings and empty lines aside.
"""


PACKAGE = ("tape", "shapes", "lowering", "backward", "differentiate")
ENGINE = DOCS.parent / "worker" / "engine"


def rule_lengths() -> list[int]:
    """Lines in the body of each rule, its docstring aside; a slope is one line of a table."""
    lengths = []
    for rule in {*VJP.values(), *LOWERED.values()}:
        if rule.slope:
            lengths.append(1)
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(rule.function))).body
        assert isinstance(tree, ast.FunctionDef)
        body = tree.body[1:] if ast.get_docstring(tree) else tree.body
        lengths.append((body[-1].end_lineno or 0) - body[0].lineno + 1)
    return lengths


def code_lines() -> int:
    """Lines of the differentiating package that are neither empty, nor comments, nor docstrings."""
    count = 0
    for path in (*(ENGINE / "rules").glob("*.py"), *(ENGINE / f"{name}.py" for name in PACKAGE)):
        text = path.read_text()
        count += sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in text.splitlines())
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                lines = text.splitlines()[node.body[0].lineno - 1 : node.body[0].end_lineno]
                count -= sum(bool(line.strip()) for line in lines)
    return count


if __name__ == "__main__":
    main()
