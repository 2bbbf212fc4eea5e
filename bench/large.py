"""Audits of transformers with a hundred million to a thousand million weights: against their bound, and in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.audits import Question, of_pictures
from bench.decoder import write_decoder
from bench.measure import Case, Spent, in_turns, installed
from bench.networks import bert_base, vit_base
from bench.page import at_most, table
from caveat.pack import chunks, content_of
from examples.graph import save

MIB, GIB = 1 << 20, 1 << 30
LAYERS = ("block6", "pool")
WORDS, TOKENS = 30_522, 32
BLOCKS, WIDE, VOCABULARY, SHORT = 20, 2048, 32_000, 16
"""Of the decoder, whose weights are more than one protobuf message can hold."""
RANDOM_SETS = 2
"""Of captum, which are cut from the reference set."""


@dataclass(frozen=True)
class Measured:
    """A model's audit, and how many examples its sets have."""

    question: Question
    counts: Mapping[str, int]
    in_torch: bool = True


def transformers(folder: Path, rounds: int, quick: bool) -> str:
    """(j) An audit of each against one pass over its examples and captum, and the memory that it takes."""
    pictures = {"concept": 20, "reference": 40 if quick else 100, "targets": 20}
    texts = {"concept": 50, "reference": 100 if quick else 400, "targets": 50}
    short, blocks = {"concept": 20, "reference": 40, "targets": 20}, 2 if quick else BLOCKS
    asked = {
        "ViT-B-like": Measured(
            of_pictures(folder / "vit", network=vit_base, layers=LAYERS, concepts=1, **pictures), pictures
        ),
        "BERT-base-like": Measured(_of_texts(folder / "bert", texts), texts),
        "decoder": Measured(of_halves(folder / "decoder", short, blocks), short, in_torch=False),
    }
    with_captum = find_spec("captum") is not None and find_spec("torch") is not None
    cases = {
        f"{kind} {name}": Case(f"bench.cases:{function}", _given(one.question))
        for name, one in asked.items()
        for kind, function in (("bound", "bound_in_batches"), ("audit", "audit"))
    }
    peers = {
        f"captum {name}": Case(
            "bench.captum_tcav:tcav",
            {**_given(one.question), "random_sets": RANDOM_SETS, "each": one.counts["concept"]},
        )
        for name, one in asked.items()
        if with_captum and one.in_torch
    }
    spent = in_turns(cases, rounds) | in_turns(peers, 1)
    rows = [row for name, one in asked.items() for row in _rows(name, one, spent)]
    columns = ["", "examples", "weights MiB", "wall s", "CPU s", "CPU : bound", "aim", "met"]
    columns += ["MiB beyond the weights", "aim", "met"]
    return f"""## Large models

Two transformers of twelve blocks with seeded random weights, one of pictures and one of texts of {TOKENS} tokens, at
the layers `block6` (every token) and `pool`; and a decoder of {blocks} causal blocks of {WIDE:,} features and
{VOCABULARY:,} words, with its float16 weights in a file of their own, over texts of {SHORT} tokens at its middle block
and its last normalisation. One concept each. The bound is as above, in the batches of the audit and with as many of
them at a time. Memory is the most that the whole process ever had (`VmHWM`), libraries and the mapped file included,
beyond the bytes of the model's file.

{table(columns, rows)}
{_beside_captum(asked, spent) if with_captum else "captum is not installed here (`make bench` installs it)."}"""


def _given(question: Question) -> dict[str, Any]:
    return {"folder": str(question.folder), "document": question.document}


def _rows(name: str, one: Measured, spent: Mapping[str, Spent]) -> list[list[str]]:
    weights, examples = (one.question.folder / "model.onnx").stat().st_size, sum(one.counts.values())
    bound, audit = spent[f"bound {name}"], spent[f"audit {name}"]
    ours = [*at_most(audit.cpu / bound.cpu, 1.12), *_beyond(audit, weights)]
    rows = [
        [
            f"{name}: bound",
            str(examples),
            str(weights // MIB),
            *_times(bound),
            "1",
            "",
            "",
            *_beyond(bound, weights)[:1],
        ],
        [f"{name}: audit", "", "", *_times(audit), *ours],
    ]
    if captum := spent.get(f"captum {name}"):
        rows.append([f"{name}: captum", str(4 * one.counts["concept"]), "", *_times(captum), *[""] * 3])
        rows[-1] += _beyond(captum, weights)[:1]
    return [row + [""] * (11 - len(row)) for row in rows]


def _times(spent: Spent) -> list[str]:
    return [f"{spent.wall:.1f}", f"{spent.cpu:.1f}"]


def _beyond(spent: Spent, weights: int) -> list[str]:
    beyond = spent.resident - weights
    return [str(beyond // MIB), "≤ 1024", at_most(beyond, GIB)[2]]


def _beside_captum(asked: Mapping[str, Measured], spent: Mapping[str, Spent]) -> str:
    found = [(name, spent[f"captum {name}"].cpu / spent[f"audit {name}"].cpu) for name in asked if asked[name].in_torch]
    ratios = " and ".join(f"{ratio:.2f} times that of the audit ({name})" for name, ratio in found)
    return f"""captum {installed("captum")} has the same network in torch, the same layers and {RANDOM_SETS} random
sets cut from the reference set, each as large as the concept: four CAVs a layer where the audit's test has 500 runs.
It ran once. Its processor time is {ratios}.
The decoder is not asked of captum: torch's gradients would be those of float16, or of a copy of all weights in
float32."""


def of_halves(folder: Path, counts: Mapping[str, int], blocks: int) -> Question:
    """The decoder and its data file as one bundle, which is what a job reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "decoder.onnx"
    write_decoder(model, blocks=blocks, width=WIDE, words=VOCABULARY)
    with (folder / "model.onnx").open("wb") as bundle:
        bundle.writelines(chunks(content_of(model)))
    model.with_name("decoder.onnx.data").unlink()
    _write_ids(folder, VOCABULARY, SHORT, np.int64, counts)
    return Question(folder, _document([f"block{blocks // 2}", "last.normal@mean"], reduce="mean"))


def _of_texts(folder: Path, counts: Mapping[str, int]) -> Question:
    folder.mkdir(parents=True, exist_ok=True)
    save(bert_base(TOKENS, WORDS), folder / "model.onnx")
    _write_ids(folder, WORDS, TOKENS, np.float32, counts)
    return Question(folder, _document(list(LAYERS)))


def _write_ids(folder: Path, words: int, tokens: int, kind: type, counts: Mapping[str, int]) -> None:
    """Random ids as arrays; the concept's texts begin with one word."""
    rng = np.random.default_rng(1)
    for name, count in counts.items():
        ids = rng.integers(words, size=(count, tokens)).astype(kind)
        if name == "concept":
            ids[:, :4] = 7
        np.save(folder / f"{name}.npy", ids)


def _document(layers: list[str], **target: str) -> dict[str, Any]:
    return {
        "model": "model.onnx",
        "examples": {name: {"arrays": f"{name}.npy"} for name in ("concept", "reference", "targets")},
        "concepts": {"word": {"examples": "concept", "against": "reference"}},
        "targets": {"class": {"index": 1, "examples": "targets", **target}},
        "layers": layers,
        "method": {"provider": "cpu", "gradient_tolerance": 0.05},
    }
