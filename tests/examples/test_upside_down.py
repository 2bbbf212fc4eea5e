from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from examples.upside_down.build import PAIRS, build, example_sets
from examples.upside_down.lines import HEIGHT, WIDTH, faded, lines, turned
from tests.examples.conftest import Network


def test_lines_are_dark_on_light_and_vary() -> None:
    drawn = lines(20, np.random.default_rng(0))
    assert drawn.shape == (20, HEIGHT, WIDTH)
    assert (drawn.min(axis=(1, 2)) < 110).all()
    assert (np.median(drawn, axis=(1, 2)) > 150).all()
    assert len({line.tobytes() for line in drawn}) == 20


def test_turning_twice_changes_nothing_and_fading_keeps_the_mean() -> None:
    drawn = lines(5, np.random.default_rng(0))
    np.testing.assert_array_equal(turned(turned(drawn)), drawn)
    np.testing.assert_allclose(faded(drawn).mean((1, 2)), drawn.mean((1, 2)), atol=1)
    np.testing.assert_allclose(faded(drawn).std((1, 2)), drawn.std((1, 2)) * 2 / 3, rtol=0.05)


def test_pairs_are_the_same_lines(upside_down_folder: Path, open_network: Callable[[Path], Network]) -> None:
    sets = example_sets()
    np.testing.assert_array_equal(sets["turned"], turned(sets["upright"]))
    called = open_network(upside_down_folder / "classifier.onnx")
    upright, upside_down = (called(np.load(upside_down_folder / f"{name}.npy")) for name in ("upright", "turned"))
    assert len(upright) == PAIRS
    assert (upside_down.argmax(1) == 1).mean() > 0.95
    assert (upright.argmax(1) == 0).mean() > 0.75


def test_the_same_inputs_each_time(upside_down_folder: Path, tmp_path: Path) -> None:
    build(tmp_path)
    for path in upside_down_folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
