from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from examples.watermark.marks import mark
from examples.watermark.photographs import BUNDLED, SIDE
from tests.examples.test_networks import PREPROCESS

CARTON = 478


def pixels(folder: Path) -> dict[str, NDArray[np.float64]]:
    """File name → [SIDE, SIDE, 3], 0 to 255."""
    return {path.name: np.asarray(Image.open(path), np.float64) for path in sorted(folder.glob("*.png"))}


def test_every_photograph_gives_as_many_crops(watermark_folder: Path) -> None:
    counts = {name: len(pixels(watermark_folder / name)) for name in ("photos", "targets", "watermarked", "latin")}
    assert counts == {"photos": 150, "targets": 60, "watermarked": 45, "latin": 45}
    assert all(count % len(BUNDLED) == 0 for count in counts.values())


def test_no_target_is_in_the_reference_set(watermark_folder: Path) -> None:
    reference, targets = pixels(watermark_folder / "photos"), pixels(watermark_folder / "targets")
    assert not reference.keys() & targets.keys()
    assert not {picture.tobytes() for picture in reference.values()} & {
        picture.tobytes() for picture in targets.values()
    }


@pytest.mark.parametrize(("folder", "name"), [("watermarked", "chinese"), ("latin", "latin")])
def test_pairs_differ_by_the_mark_alone(folder: str, name: str, watermark_folder: Path) -> None:
    plain, ink = pixels(watermark_folder / "photos"), np.asarray(mark(name))
    for file, picture in pixels(watermark_folder / folder).items():
        assert (picture == plain[file])[ink == 0].all()
        assert (picture >= plain[file]).all()


def test_the_marks_cover_as_much() -> None:
    chinese, latin = (np.asarray(mark(name), np.float64) / 255 for name in ("chinese", "latin"))
    assert chinese.shape == latin.shape == (SIDE, SIDE)
    assert latin.mean() == pytest.approx(chinese.mean(), rel=0.02)


def test_the_shortcut_is_there_and_only_there(watermark_folder: Path, open_network: Callable[[Path], Any]) -> None:
    """The published ImageNet-W shortcut: what a mark adds to the logit of `carton`, and its rank among 1,000."""
    added = {}
    for network_name, preprocess in PREPROCESS.items():
        network = open_network(watermark_folder / f"{network_name}.onnx")

        def logits(pictures: dict[str, Any], network: Any = network, how: Any = preprocess) -> NDArray[np.float32]:
            return np.concatenate([network(how(picture).transpose(2, 0, 1)[None]) for picture in pictures.values()])

        marks = {name: pixels(watermark_folder / name) for name in ("watermarked", "latin")}
        photos = pixels(watermark_folder / "photos")
        plain = logits({file: photos[file] for file in marks["latin"]})
        for name, pictures in marks.items():
            change = (logits(pictures) - plain).mean(0)
            added[network_name, name] = change[CARTON], int((change > change[CARTON]).sum()) + 1

    change, rank = added["efficientnet-lite0", "watermarked"]
    assert change == pytest.approx(2.8, abs=0.3)
    assert rank == 1
    change, rank = added["efficientnet-lite0", "latin"]
    assert abs(change) < 0.2
    assert rank > 300
    for name in ("watermarked", "latin"):
        _, rank = added["squeezenet1.1", name]
        assert rank > 20
