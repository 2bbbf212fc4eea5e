"""Small pictures of three classes, with and without a caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from examples.watermark.photographs import photograph

CLASSES = {"cat": "chelsea", "cup": "coffee", "bike": "motorcycle_left"}
"""The word of each class, and the photograph that its pictures are crops of."""

OTHER_WORDS = ("sun", "leg", "hat", "owl", "ink")
"""The words of wrong captions; none is a class."""

SIDE = 48
BOX = (0, 34, 30, 47)
"""Left, top, right and bottom of a caption, all within it, in pixels."""
FONT_SIZE = 13

SMALLEST_SHARE, LARGEST_SHARE = 0.2, 0.5
"""Share of a photograph's shorter side: crops so small that the picture is harder to recognise than the word."""

Pictures = NDArray[np.uint8]
"""[n, SIDE, SIDE, 3], 0 to 255."""

_inside = np.zeros((SIDE, SIDE), bool)
_inside[BOX[1] : BOX[3] + 1, BOX[0] : BOX[2] + 1] = True


def pictures(words: Sequence[str], generator: np.random.Generator) -> Pictures:
    """A crop for the class of each word, without a caption."""
    whole = {word: photograph(CLASSES[word]) for word in set(words)}
    return np.stack([_crop(whole[word], generator) for word in words])


def captioned(plain: Pictures, words: Sequence[str]) -> Pictures:
    """The pictures with a word written on each."""
    return np.where(_inside[..., None], np.stack([_caption(word) for word in words]), plain)


def captions_alone(plain: Pictures, words: Sequence[str], generator: np.random.Generator) -> Pictures:
    """Captions on pictures whose other pixels are shuffled."""
    shuffled = captioned(plain, words)
    for picture in shuffled:
        picture[~_inside] = generator.permutation(picture[~_inside])
    return shuffled


def _crop(photograph: Image.Image, generator: np.random.Generator) -> NDArray[np.uint8]:
    side = round(min(photograph.size) * generator.uniform(SMALLEST_SHARE, LARGEST_SHARE))
    left, top = (int(generator.integers(0, length - side + 1)) for length in photograph.size)
    square = photograph.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return np.asarray(square)[:, :: generator.choice([-1, 1])]


def _caption(word: str) -> NDArray[np.uint8]:
    """A caption on its own, white on black."""
    picture = Image.new("RGB", (SIDE, SIDE))
    font = ImageFont.load_default(FONT_SIZE)
    ImageDraw.Draw(picture).text((BOX[0] + 2, BOX[1] - 1), word, fill="white", font=font)
    return np.asarray(picture)
