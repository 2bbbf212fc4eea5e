"""The audit of one network of the captions experiment: how much its classes depend on pictures and on captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caveat_spec.audit import Audit
from examples.captions.build import WORDS
from examples.captions.pictures import SIDE

PREPROCESS = {"size": SIDE, "mean": 0, "std": 255, "channels": "rgb", "layout": "nchw"}


def question(folder: Path, network: str) -> Audit:
    """The audit of `network` in the folder of one seed: each class's picture and caption, and a random concept.

    The layer is `hidden1`, because after `hidden2` the network is linear.
    """
    concepts = {f"{kind}-{word}": f"{kind}-not-{word}" for word in WORDS for kind in ("image", "caption")}
    concepts["null"] = "null-reference"
    sets = {"null-concept", *concepts, *concepts.values(), *(f"target-{word}" for word in WORDS)} - {"null"}
    document: dict[str, Any] = {
        "model": str(folder / f"{network}.onnx"),
        "examples": {name: {"images": str(folder / name), "preprocess": PREPROCESS} for name in sorted(sets)},
        "concepts": {
            name: {"examples": "null-concept" if name == "null" else name, "against": reference}
            for name, reference in concepts.items()
        },
        "targets": {
            word: {"output": "logits", "index": index, "examples": f"target-{word}"} for index, word in enumerate(WORDS)
        },
        "layers": ["hidden1"],
    }
    return Audit.model_validate(document)
