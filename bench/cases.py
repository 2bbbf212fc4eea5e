"""The measured cases. Each function prepares one and returns the part that is timed."""

from __future__ import annotations

import gc
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bench.audits import Question, of_rows
from bench.measure import Prepared
from caveat_spec.audit import Audit
from caveat_worker import pipeline
from caveat_worker.array_stores import cached, scratch
from caveat_worker.engine.activations.batches import batch_size, side_by_side
from caveat_worker.engine.autodiff.differentiate import differentiate, expose
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.threads import parallel_map, split_threads
from caveat_worker.engine.methods import asked_methods
from caveat_worker.engine.onnx.session import open_session
from caveat_worker.readers.registry import open_examples


def audit(folder: str, document: dict[str, Any], threads: int = 0, kept: str | None = None) -> Prepared:
    """A whole audit in this process: from its document to its report, the model and the pictures read in between."""
    question = Question(Path(folder), document)
    asked = question.audit()
    os.chdir(tempfile.mkdtemp())
    asked_methods(asked)  # imports them
    store = {} if kept is None else {"store": partial(cached, Path(kept), Path("fresh"))}
    gc.freeze()

    def measured() -> dict[str, Any]:
        report = pipeline.run(asked, question.blob, _silently, threads=threads, **store)
        return {"tests": len(report.tests)}

    return measured


def fill(folder: str, document: dict[str, Any], kept: str) -> Prepared:
    """The same audit, after which its arrays are put into the cache, as the supervisor does."""
    audited = audit(folder, document, kept=kept)

    def measured() -> None:
        audited()
        for entry in Path("fresh").glob("*.npy"):
            entry.rename(Path(kept, entry.name))

    return measured


def wide(folder: str, reference: int, concept: int, features: int) -> Prepared:
    """An audit of one wide layer over few inputs: nearly all its memory is activations."""
    question = of_rows(Path(folder), reference=reference, concept=concept, targets=concept, hidden=features)
    return audit(folder, question.document)


def bound(
    folder: str, document: dict[str, Any], batch: int = 16, backward_batch: int = 8, side_by_side: bool = False
) -> Prepared:
    """One forward pass over concepts and reference, one forward and backward pass over targets, by open sessions."""
    question = Question(Path(folder), document)
    asked = question.audit()
    count, threads = split_threads(0) if side_by_side else (1, 0)
    return _passes(question, asked, load(question.folder / document["model"]), (batch, backward_batch), count, threads)


def bound_in_batches(folder: str, document: dict[str, Any]) -> Prepared:
    """The same in batches as large as the audit's, and as many at a time."""
    question = Question(Path(folder), document)
    asked = question.audit()
    with scratch() as kept:
        plan = pipeline.prepare(asked, question.blob, _silently, kept).plan
    sizes = {bool(need.gradients): batch_size(plan, need) for need in plan.needs.values()}
    return _passes(question, asked, plan.model, (sizes[False], sizes[True]), *side_by_side(plan, 0, "cpu"))


def _passes(
    question: Question, asked: Audit, model: Model, sizes: tuple[int, int], count: int, threads: int
) -> Prepared:
    """The passes of a bound, so many batches at a time of these sizes, forward and backward."""
    layers = [choice.tensor for choice in asked.layers]  # type: ignore[union-attr]
    targets = [
        Target(name=name, output=one.output, index=one.index, reduce=one.reduce) for name, one in asked.targets.items()
    ]
    forward = open_session(expose(model, layers), threads=threads)
    backward = open_session(differentiate(model, layers, targets, also=layers), threads=threads)
    of_targets = {target.examples for target in asked.targets.values()}
    (entry,) = model.inputs
    inputs = {name: pictures(question, asked, name).astype(entry.dtype) for name in asked.examples}
    forward.run({entry.name: next(iter(inputs.values()))[: sizes[0]]})

    def measured() -> None:
        for name, values in inputs.items():
            session, size = (backward, sizes[1]) if name in of_targets else (forward, sizes[0])
            feeds = ({entry.name: values[start : start + size]} for start in range(0, len(values), size))
            for _ in parallel_map(session.run, feeds, count):
                pass

    return measured


def gradient(network: str, layer: str, batch: int = 16, passes: int = 3) -> Prepared:
    """The gradient pass of a network in ONNX Runtime: a class's logit by a layer, with the layer's activations."""
    model = load(Path(network))
    target = Target(name="class", output=None, index=7)
    session = open_session(differentiate(model, [layer], [target], also=[layer]))
    x = noise(batch)
    session.run({"input": x})

    def measured() -> None:
        for _ in range(passes):
            session.run({"input": x})

    return measured


def gradient_in_torch(network: str, layer: str, batch: int = 16, passes: int = 3) -> Prepared:
    """The same gradient in torch, eager: forward, and backward as far as the layer."""
    import torch

    from bench.torch_network import TorchNetwork

    model = TorchNetwork(onnx.load(network)).requires_grad_(False)
    x = torch.from_numpy(noise(batch))

    def once() -> None:
        logits, at = model(x, layer)
        torch.autograd.grad(logits[:, 7].sum(), at)

    once()

    def measured() -> None:
        for _ in range(passes):
            once()

    return measured


def pictures(question: Question, asked: Audit, name: str) -> NDArray[np.float32]:
    """A set's examples as the model takes them [n, 3, 224, 224]."""
    declared = asked.examples[name]
    source = open_examples(declared, question.blob, 0)
    (values,) = source.load(range(len(source))).values()
    return np.asarray(values, np.float32)


def noise(batch: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(batch, 3, 224, 224)).astype(np.float32)


def _silently(stage: str, progress: float) -> None:
    """Ignores progress."""
