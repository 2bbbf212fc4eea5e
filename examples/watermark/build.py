"""Writes the watermark demo's inputs: two networks, and folders of photographs with and without a mark.

python -m examples.watermark.build [folder]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from examples.graph import save
from examples.watermark.efficientnet import efficientnet_lite0
from examples.watermark.marks import mark, marked
from examples.watermark.photographs import BUNDLED, crop, photograph
from examples.watermark.squeezenet import squeezenet

FOLDER = Path(".caveat/demo/watermark")
SEED = 20

REFERENCE_CROPS = 10
"""Crops of each photograph, in `photos`."""
MARKED_CROPS = 3
"""Those of them that are also in `watermarked` and `latin`, under the same file names."""
TARGET_CROPS = 4
"""Crops of each photograph, in `targets`; none is in `photos`."""

Pictures = Mapping[str, Image.Image]
"""File name without its suffix → picture."""


def build(folder: Path) -> None:
    """Writes two ONNX files and four folders of PNG files; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    save(efficientnet_lite0(), folder / "efficientnet-lite0.onnx")
    save(squeezenet(), folder / "squeezenet1.1.onnx")
    for name, pictures in example_sets().items():
        _write(pictures, folder / name)


def example_sets() -> dict[str, Pictures]:
    """`photos`, `targets`, and some of `photos` under each mark: every photograph gives the same number of crops."""
    generator = np.random.default_rng(SEED)
    whole = {name: photograph(name) for name in BUNDLED}
    drawn = {
        (name, number): crop(picture, generator)
        for name, picture in whole.items()
        for number in range(REFERENCE_CROPS + TARGET_CROPS)
    }

    def numbered(first: int, end: int) -> Pictures:
        return {f"{name}-{n:02}": picture for (name, n), picture in drawn.items() if first <= n < end}

    plain = numbered(0, MARKED_CROPS)
    return {
        "photos": numbered(0, REFERENCE_CROPS),
        "targets": numbered(REFERENCE_CROPS, REFERENCE_CROPS + TARGET_CROPS),
        "watermarked": {name: marked(picture, mark("chinese")) for name, picture in plain.items()},
        "latin": {name: marked(picture, mark("latin")) for name, picture in plain.items()},
    }


def _write(pictures: Pictures, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png", compress_level=1)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
