"""The hand-written graphs are the published networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from examples.pickles import read_numpy_pickle, read_state_dict
from examples.watermark import efficientnet, squeezenet
from examples.watermark.photographs import SIDE, photograph
from tests.examples import forward

PREPROCESS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "efficientnet-lite0": lambda rgb: (rgb - 127) / 128,
    "squeezenet1.1": lambda rgb: rgb[..., ::-1] - np.array([104, 117, 123]),
}
ORACLES: dict[str, Callable[[NDArray[Any]], dict[str, NDArray[Any]]]] = {
    "efficientnet-lite0": lambda image: forward.efficientnet_lite0(read_state_dict(efficientnet.WEIGHTS.read()), image),
    "squeezenet1.1": lambda image: forward.squeezenet(read_numpy_pickle(squeezenet.WEIGHTS.read()), image),
}

TABBY, TIGER_CAT, EGYPTIAN_CAT = 281, 282, 285
MISSILE, PROJECTILE, SPACE_SHUTTLE = 657, 744, 812
MOPED, SCOOTER, CUP, ESPRESSO, TRIPOD, PALACE = 665, 670, 968, 967, 872, 698

EXPECTED = {
    "chelsea": {TABBY, TIGER_CAT, EGYPTIAN_CAT},
    "coffee": {ESPRESSO, CUP},
    "camera": {TRIPOD},
    "motorcycle_left": {MOPED, SCOOTER},
    "rocket": {MISSILE, PROJECTILE, SPACE_SHUTTLE},
    "china": {PALACE},
}


def centre(name: str, how: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[np.float32]:
    """The middle of a photograph as an input [3, SIDE, SIDE]."""
    whole = photograph(name)
    side = min(whole.size)
    left, top = ((length - side) // 2 for length in whole.size)
    square = whole.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return np.ascontiguousarray(how(np.asarray(square, np.float64)).transpose(2, 0, 1), dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "recognised"),
    [
        ("efficientnet-lite0", ["chelsea", "coffee", "camera", "motorcycle_left", "rocket", "china"]),
        ("squeezenet1.1", ["chelsea", "coffee", "camera", "motorcycle_left"]),
    ],
)
def test_photographs_are_recognised(
    name: str, recognised: list[str], watermark_folder: Path, open_network: Callable[[Path], Any]
) -> None:
    network = open_network(watermark_folder / f"{name}.onnx")
    logits = network(np.stack([centre(subject, PREPROCESS[name]) for subject in recognised]))
    for subject, row in zip(recognised, logits, strict=True):
        assert int(row.argmax()) in EXPECTED[subject], subject


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_every_block_agrees_with_a_literal_forward_pass(name: str, watermark_folder: Path) -> None:
    image = centre("coffee", PREPROCESS[name])
    expected = ORACLES[name](image.astype(np.float64))
    model = onnx.load(watermark_folder / f"{name}.onnx")
    model.graph.output.extend(onnx.ValueInfoProto(name=block) for block in expected if block != "logits")
    session = ort.InferenceSession(model.SerializeToString())
    found = session.run(list(expected), {"image": image[None]})
    for block, values in zip(expected, found, strict=True):
        np.testing.assert_allclose(values[0], expected[block], atol=2e-4 * np.abs(expected[block]).max(), err_msg=block)


@pytest.mark.parametrize("name", sorted(PREPROCESS))
def test_a_batch_is_as_good_as_one_by_one(
    name: str, watermark_folder: Path, open_network: Callable[[Path], Any]
) -> None:
    network = open_network(watermark_folder / f"{name}.onnx")
    images = np.stack([centre(subject, PREPROCESS[name]) for subject in ("coffee", "chelsea")])
    together = network(images)
    alone = np.concatenate([network(image[None]) for image in images])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
