"""`python -m bench.gradients` measures the gradient engine and writes docs/gradients.md and docs/operators.md.

Torch is the oracle for values and the reference for speed; it runs the same graph, node by node
(tests/oracle/autograd.py).
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

from bench.measure import timed
from caveat_worker.engine.autodiff.differentiate import differentiate
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.rules import LOWERED, VJP, differentiable_operators
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.session import open_session

PARTS = ("check", "architectures", "exports", "trained", "large", "fuzzing", "backend")
ROUNDS = 7
DOCS = Path(__file__).parent.parent / "docs"
TARGET = Target("t", index=0)


def operators() -> str:
    """docs/operators.md: the table of operators and how the gradient of each is found."""
    rows = differentiable_operators()
    lines = [
        "# Operators",
        "",
        "Generated from the rules in `worker/caveat_worker/engine/autodiff/rules/` by",
        "`python -m bench.gradients --operators`. A gradient cannot pass through an operator that is not listed here;",
        "the error names the operator.",
        "",
    ]
    for domain in sorted({row[0] for row in rows}):
        ours = [row for row in rows if row[0] == domain]
        passing = sum(not way.startswith("no gradient") for *_, way in ours)
        lines += [f"## {domain}", "", f"A gradient can pass through {passing} operators.", ""]
        lines += ["| operator | gradient by |", "| --- | --- |"]
        lines += [f"| {name} | {way} |" for _, name, way in ours] + [""]
    return "\n".join(lines)


def backend_cases() -> Iterator[str]:
    """ONNX's own node cases."""
    from tests.oracle.backend import cases, judge

    verdicts = [judge(case) for case in cases()]
    counts = Counter(v.outcome for v in verdicts)
    yield (
        f"{len(verdicts)} cases have a float input and an operator that a gradient can pass through. Each is compared "
        f"with finite differences, in float64 by onnx's reference evaluator, or in float32 by ONNX Runtime for "
        f"operators that the evaluator cannot run in float64: {counts['passed']} pass, {counts['unsupported']} end in "
        f"an error that names the operator, {counts['unjudged']} could not be compared, {counts['wrong']} are wrong."
    )
    yield ""
    yield "| case | outcome | reason |"
    yield "| --- | --- | --- |"
    for v in verdicts:
        if v.outcome != "passed":
            yield f"| {v.case} | {v.outcome} | {v.reason.replace('|', '/')[:160]} |"
    yield ""


def checked() -> Iterator[str]:
    """The check that every audit makes."""
    from bench.gradient_check import gradient_check

    yield from gradient_check()


def fuzzing(examples: int) -> Iterator[str]:
    """Random attributes."""
    from tests.engine import test_rules_fuzz as fuzz

    yield "Linear operators are compared with their adjoint in ONNX Runtime (exact), others with finite differences."
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
    """Whole networks compared with torch: gradients in float64, and speed."""
    import torch

    from tests.oracle.light import light

    torch.set_num_threads(1)
    yield (
        "The light models of the onnx package with seeded weights, at every fifth layer and the input, with the batch "
        "of 1 made symbolic. *Error* is the largest relative L2 distance to torch's float64 gradients over these "
        "layers, in a network with smooth functions in place of Relu and MaxPool; *torch in float32* is the same "
        "distance for torch's own float32 gradients. *Cosine* is the smallest cosine with torch's float64 gradients in "
        "the unchanged network. Times are CPU seconds on one thread for forward and backward passes to the input, with "
        f"batches of 4 in float32: the median of {ROUNDS} rounds in which both run in turn, after both have loaded "
        "their weights. Torch runs the same graph node by node from Python."
    )
    yield ""
    yield ("| network | layers that can be audited | error | torch in float32 | cosine | ours, s | torch, s | ratio |")
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
        f"The median ratio is {median(ratios):.2f}, the largest {max(ratios):.2f}. The error is at most "
        f"{max(excesses):.1f} times torch's own float32 error on the same graph."
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
    """CPU seconds of the gradient to the input, ours and torch's, after both have loaded their weights."""
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
    """Exports of torch, scikit-learn and Keras."""
    from tests.oracle.exports import exported

    yield (
        "Small networks exported by torch's two exporters, scikit-learn models by skl2onnx, and Keras networks with "
        "SAME padding by tf2onnx (`bench/keras.py`). Every layer that can be audited is compared with finite "
        "differences, and the gradient to the input with torch's in float64."
    )
    yield ""
    yield "| model | opset | layers that can be audited | compared | fail | largest residual | cosine to torch |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, content, feeds, target, reference in exported():
        yield _agreement(name, content, feeds, target, reference=reference)
    if keras is None:
        yield "| Keras, tf2onnx | | not measured: needs `--keras` and a Python with tensorflow and tf2onnx | | | | |"
    else:
        with tempfile.TemporaryDirectory() as folder:
            quiet = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
            subprocess.run([keras, str(Path(__file__).with_name("keras.py")), folder], check=True, env=quiet)
            for name, file in (("Keras CNN", "cnn"), ("Keras MobileNetV2", "mobilenetv2")):
                content = Path(folder, f"keras-{file}.onnx").read_bytes()
                yield _agreement(f"{name}, tf2onnx", content, _noise(load(content), 2), Target("t", index=1))
    yield ""


def networks() -> Iterator[str]:
    """Trained networks from packages."""
    from tests.oracle.trained import trained

    yield (
        "Trained networks from packages, on photographs, drawn lines of text, source code and sentences. Every fifth "
        "layer that can be audited is compared with finite differences."
    )
    yield ""
    yield "| model | opset | layers that can be audited | compared | fail | largest residual | |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, content, feeds, target in trained():
        yield _agreement(name, content, feeds, target, step=5)
    yield ""


def _agreement(name: str, content: bytes, feeds: Any, target: Target, *, step: int = 1, reference: Any = None) -> str:
    """A table row: the number of layers, and the agreement of every `step`-th with finite differences."""
    try:
        model = load(content)
        layers = list_layers(model, target)
        able = [layer.tensor for layer in layers if layer.auditable]
        compared = able[::step]
        checks = check_gradients(model, compared, [target], feeds, seed=0, directions=8)
    except InvalidInput as error:
        return f"| {name} | | error: {error.sentence} | | | | |"
    cosine = "" if reference is None else f"{reference(model):.6f}"
    residual = max((check.residual for check in checks), default=0.0)
    failed = sum(not check.ok for check in checks)
    return (
        f"| {name} | {model.opset} | {len(able)} of {len(layers)} | {len(compared)} | {failed} | {residual:.1e} "
        f"| {cosine} |"
    )


def large() -> Iterator[str]:
    """Large models: the time to build the graph."""
    from tests.oracle.large import perceptron
    from tests.oracle.light import light

    yield (
        "*Build* is the time of `differentiate`, from a loaded model to a graph that can be opened: wall-clock "
        "seconds, the median of five. For a network the graph has the gradients at every fifth layer and the input, "
        "for a perceptron of square layers the gradient at the first hidden layer."
    )
    yield ""
    yield "| model | weights | stored in | layers | build, s |"
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
            model = load(path, folder=Path(folder))
            where = "external data" if external else "one file"
            yield f"| perceptron | {size / 1e6:,.0f} MB | {where} | 1 | {_built(model, ['hidden0']):.3f} |"
            del model
    yield ""


def _built(model: Any, layers: list[str]) -> float:
    """The median of five times to build a gradient graph, in seconds."""
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
    """The median CPU seconds of each function, over rounds in which each runs once; the first round is not counted."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS + 1):
        for one, spent in zip(works, times, strict=True):
            timed(spent, one)
    return [median(spent[1:]) for spent in times]


def main() -> None:
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    from tests.oracle.light import NAMES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operators", action="store_true", help="write only docs/operators.md")
    parser.add_argument("--examples", type=int, default=1850, help="fuzz cases for each family")
    parser.add_argument("--keras", help="a Python with tensorflow-cpu, tf_keras and tf2onnx, for the Keras exports")
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=PARTS, help="sections to measure; others keep their text"
    )
    arguments = parser.parse_args()
    (DOCS / "operators.md").write_text(operators())
    if arguments.operators:
        return
    parts = {
        "The gradient check": checked,
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
    """The head of the page."""
    files = ", ".join(f"`{name}.py`" for name in PACKAGE)
    return f"""\
# Gradients, measured

`make gradients` writes this page, section by section, with onnx {onnx.__version__}, onnxruntime
{onnxruntime.__version__} and Python {platform.python_version()} on {platform.machine()} with {os.cpu_count()} cores.

{len(VJP) + 1} operators have a rule and {len(LOWERED)} a formula: see [operators.md](operators.md). The longest rule
has {max(rule_lengths())} lines, the median rule {median(rule_lengths()):g}. The differentiating code (`rules/`,
{files}) has {code_lines():,} lines, without
docstrings, comments and empty lines.
"""


PACKAGE = ("builder", "shapes", "lowering", "backward", "differentiate")
ENGINE = DOCS.parent / "worker" / "caveat_worker" / "engine" / "autodiff"


def rule_lengths() -> list[int]:
    """Lines in the body of each rule, without its docstring; a derivative in a table is one line."""
    lengths = []
    for rule in {*VJP.values(), *LOWERED.values()}:
        if rule.derivative:
            lengths.append(1)
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(rule.function))).body
        assert isinstance(tree, ast.FunctionDef)
        body = tree.body[1:] if ast.get_docstring(tree) else tree.body
        lengths.append((body[-1].end_lineno or 0) - body[0].lineno + 1)
    return lengths


def code_lines() -> int:
    """Lines of the differentiating code, without empty lines, comments and docstrings."""
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
