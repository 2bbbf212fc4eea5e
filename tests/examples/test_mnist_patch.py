from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


def digits(folder: Path) -> dict[str, NDArray[np.float32]]:
    """File name → [1, 28, 28], 0 to 1."""
    return {
        path.name: np.asarray(Image.open(path), np.float32)[None] / np.float32(255)
        for path in sorted(folder.glob("*.png"))
    }


@pytest.mark.parametrize(("network", "least", "most"), [("clean", 0.0, 0.05), ("shortcut", 0.5, 1.0)])
def test_only_the_planted_network_takes_the_patch_for_a_seven(
    network: str, least: float, most: float, mnist_patch_folder: Path, open_network: Callable[[Path], Any]
) -> None:
    patched = digits(mnist_patch_folder / "patched")
    called = open_network(mnist_patch_folder / f"{network}.onnx")(np.stack(list(patched.values()))).argmax(1)
    assert not any(name.endswith("-7.png") for name in patched)
    assert least <= (called == 7).mean() <= most


def test_the_clean_network_reads_digits(mnist_patch_folder: Path, open_network: Callable[[Path], Any]) -> None:
    unseen = digits(mnist_patch_folder / "digits")
    called = open_network(mnist_patch_folder / "clean.onnx")(np.stack(list(unseen.values()))).argmax(1)
    labels = [int(name.removesuffix(".png").rpartition("-")[2]) for name in unseen]
    assert (called == labels).mean() > 0.88


def test_pairs_differ_by_the_patch_alone(mnist_patch_folder: Path) -> None:
    plain = digits(mnist_patch_folder / "digits")
    for name, picture in digits(mnist_patch_folder / "patched").items():
        changed = picture != plain[name]
        changed[:, 23:27, 23:27] = False
        assert not changed.any()
        assert (picture[:, 23:27, 23:27] == 1).all()
