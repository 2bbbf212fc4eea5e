"""Audits of transformers with about a hundred million weights: against their bound, and in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.audits import Question, of_pictures
from bench.measure import Case, Spent, in_turns
from bench.networks import bert_base, vit_base
from bench.page import at_most, table
from examples.graph import save

MIB, GIB = 1 << 20, 1 << 30
LAYERS = ("block6", "pool")
WORDS, TOKENS = 30_522, 32


def transformers(folder: Path, rounds: int, quick: bool) -> str:
    """(j) An audit of each against one pass over its examples, and the memory that it takes beyond the weights."""
    size = {"concept": 20, "reference": 20, "targets": 20} if quick else {"concept": 20, "reference": 40, "targets": 20}
    questions = {
        "ViT-B-like, pictures of 224 pixels": of_pictures(
            folder / "vit", network=vit_base, layers=LAYERS, concepts=1, **size
        ),
        f"BERT-base-like, {TOKENS} tokens": _of_texts(folder / "bert", **{of: 2 * count for of, count in size.items()}),
    }
    spent = in_turns(
        {
            f"{kind} {name}": Case(f"bench.cases:{kind}", {"folder": str(one.folder), "document": one.document} | more)
            for name, one in questions.items()
            for kind, more in (("bound", {"batch": 8, "backward_batch": 4, "side_by_side": True}), ("audit", {}))
        },
        rounds,
    )
    rows = [
        row
        for name, one in questions.items()
        for row in _rows(name, spent[f"bound {name}"], spent[f"audit {name}"], _weights(one))
    ]
    columns = [
        "",
        "weights MiB",
        "wall s",
        "CPU s",
        "CPU : bound",
        "aim",
        "met",
        "MiB beyond the weights",
        "aim",
        "met",
    ]
    counts = ", ".join(f"{count} {of}" for of, count in size.items())
    return f"""## Large models

Transformers of twelve blocks with seeded random weights, {counts} pictures and twice as many texts; layers `block6`
(every token) and `pool`; one concept. The bound is as above, one batch on each core. Memory is the most that the whole
process ever had (`VmHWM`), libraries and the mapped file included, beyond the bytes of the model's file.

{table(columns, rows)}
A decoder of over 2 GB in float16 with external data is not measured here."""


def _rows(name: str, bound: Spent, audit: Spent, weights: int) -> list[list[str]]:
    beyond = [str((audit.resident - weights) // MIB), "≤ 1024", at_most(audit.resident - weights, GIB)[2]]
    of_bound = str((bound.resident - weights) // MIB)
    return [
        [f"{name}: bound", str(weights // MIB), f"{bound.wall:.1f}", f"{bound.cpu:.1f}", "1", "", "", of_bound, "", ""],
        [f"{name}: audit", "", f"{audit.wall:.1f}", f"{audit.cpu:.1f}", *at_most(audit.cpu / bound.cpu, 1.12), *beyond],
    ]


def _weights(question: Question) -> int:
    return (question.folder / "model.onnx").stat().st_size


def _of_texts(folder: Path, concept: int, reference: int, targets: int) -> Question:
    """Random ids as arrays; the concept's texts begin with one word."""
    folder.mkdir(parents=True, exist_ok=True)
    save(bert_base(TOKENS, WORDS), folder / "model.onnx")
    rng = np.random.default_rng(1)
    for name, count in (("concept", concept), ("reference", reference), ("targets", targets)):
        ids = rng.integers(WORDS, size=(count, TOKENS)).astype(np.float32)
        if name == "concept":
            ids[:, :4] = 7
        np.save(folder / f"{name}.npy", ids)
    return Question(
        folder,
        {
            "model": "model.onnx",
            "examples": {name: {"arrays": f"{name}.npy"} for name in ("concept", "reference", "targets")},
            "concepts": {"word": {"examples": "concept", "against": "reference"}},
            "targets": {"class": {"index": 1, "examples": "targets"}},
            "layers": list(LAYERS),
            "method": {"provider": "cpu", "gradient_tolerance": 0.05},
        },
    )
