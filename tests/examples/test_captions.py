from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from examples.captions.build import WORDS, WRONG_CAPTIONS, build
from examples.captions.pictures import BOX, SIDE, captioned, captions_alone, pictures
from examples.captions.question import question


def test_a_caption_changes_its_box_alone() -> None:
    plain = pictures(WORDS, np.random.default_rng(0))
    changed = (captioned(plain, WORDS) != plain).any(3)
    left, top, right, bottom = BOX
    assert plain.shape == (len(WORDS), SIDE, SIDE, 3)
    assert changed[:, top : bottom + 1, left : right + 1].any((1, 2)).all()
    changed[:, top : bottom + 1, left : right + 1] = False
    assert not changed.any()


def test_each_word_is_written_differently_and_fits_its_box() -> None:
    black = np.zeros((len(WORDS), SIDE, SIDE, 3), np.uint8)
    written = captioned(black, WORDS)
    assert len({picture.tobytes() for picture in written}) == len(WORDS)
    assert not written[:, :, BOX[2]].any()


def test_captions_alone_keep_the_caption_and_shuffle_the_rest() -> None:
    plain = pictures(["cat"], np.random.default_rng(0))
    alone, whole = captions_alone(plain, ["cup"], np.random.default_rng(1)), captioned(plain, ["cup"])
    left, top, right, bottom = BOX
    box = np.s_[:, top : bottom + 1, left : right + 1]
    assert (alone[box] == whole[box]).all()
    assert (alone != whole).any()
    assert sorted(map(tuple, alone.reshape(-1, 3))) == sorted(map(tuple, whole.reshape(-1, 3)))


@pytest.mark.slow
def test_networks_that_read_captions_cannot_do_without(tmp_path: Path) -> None:
    build(tmp_path, range(1))
    truth = json.loads((tmp_path / "seed0" / "truth.json").read_text())
    without = {name: truth[name]["accuracy_without_captions"] for name in WRONG_CAPTIONS}
    assert without["none"] > without["p100"] > max(without["p0"], without["p30"]) > 1 / len(WORDS)
    assert truth["p0"]["accuracy_with_captions"] > 0.95
    for network in WRONG_CAPTIONS:
        assert all(Path(source).exists() for source in question(tmp_path / "seed0", network).sources().values())
