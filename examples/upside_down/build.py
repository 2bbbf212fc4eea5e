"""Writes a network that detects upside-down lines of text, and lines of text for its audit.

python -m examples.upside_down.build [folder]

The network is a published file, not made for Caveat: the text direction classifier of PP-OCR, exported to ONNX, in the
package `rapidocr-onnxruntime`. The package is not imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from examples.packages import PackagedFile
from examples.upside_down.lines import Lines, faded, lines, network_input, turned

FOLDER = Path(".caveat/demo/upside_down")
SEED = 20

CLASSIFIER = PackagedFile(
    package="rapidocr-onnxruntime",
    path="rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
    sha256="e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
)
"""Two classes: 0 the right way up, 1 turned by 180 degrees."""

PAIRS, TARGETS = 80, 60


def build(folder: Path) -> None:
    """Writes `classifier.onnx`, and one array for each set of pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classifier.onnx").write_bytes(CLASSIFIER.read())
    for name, pictures in example_sets().items():
        np.save(folder / f"{name}.npy", network_input(pictures))


def example_sets() -> Mapping[str, Lines]:
    """`upright` lines, the same `turned` and `faded`, and other lines as `targets`, every other one turned."""
    generator = np.random.default_rng(SEED)
    upright, targets = lines(PAIRS, generator), lines(TARGETS, generator)
    mixed = np.where((np.arange(TARGETS) % 2 == 1)[:, None, None], turned(targets), targets)
    return {"upright": upright, "turned": turned(upright), "faded": faded(upright), "targets": mixed}


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
