"""Lines of text as pictures: ink on paper, in shades that vary from line to line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

HEIGHT, WIDTH = 48, 192
"""Pixels of a picture: what the network takes."""

WORDS = (
    *("about", "above", "after", "again", "bread", "build", "carry", "city", "clear", "cloud", "dinner", "earth"),
    *("early", "family", "field", "first", "garden", "glass", "ground", "happy", "heavy", "house", "island", "kitchen"),
    *(
        "large",
        "letter",
        "little",
        "market",
        "minute",
        "morning",
        "music",
        "night",
        "number",
        "often",
        "paper",
        "people",
    ),
    *("picture", "place", "quiet", "reason", "river", "school", "small", "story", "street", "summer", "table", "today"),
    *(
        "train",
        "under",
        "village",
        "voice",
        "water",
        "weather",
        "window",
        "winter",
        "world",
        "yellow",
        "young",
        "page 7",
    ),
)

SIZES = (20, 30)
"""The smallest and the largest size of the letters, in pixels."""
PAPER, INK = (170, 250), (0, 90)
"""The darkest and the lightest shade of each, from 0 to 255."""
GRAIN = 6.0
"""Standard deviation of the noise on every pixel, as a scanner has it."""

Lines = NDArray[np.uint8]
"""[n, HEIGHT, WIDTH], grey, 0 to 255."""


def lines(count: int, generator: np.random.Generator) -> Lines:
    """Lines of random words, the right way up."""
    return np.stack([_line(generator) for _ in range(count)])


def turned(upright: Lines) -> Lines:
    """The same lines upside down."""
    return upright[:, ::-1, ::-1]


def faded(upright: Lines) -> Lines:
    """The same lines with the contrast of ink and paper down to two thirds, as on an old photocopy."""
    middle = upright.mean(axis=(1, 2), keepdims=True)
    grey: Lines = np.round(middle + (upright - middle) * (2 / 3)).astype(np.uint8)
    return grey


def network_input(pictures: Lines) -> NDArray[np.float32]:
    """[n, 3, HEIGHT, WIDTH] of -1 to 1."""
    grey = (pictures / 255 - 0.5) / 0.5
    return np.repeat(grey[:, None], 3, axis=1).astype(np.float32)


def _line(generator: np.random.Generator) -> NDArray[np.uint8]:
    paper, ink = int(generator.integers(*PAPER)), int(generator.integers(*INK))
    font = ImageFont.load_default(int(generator.integers(*SIZES)))
    left, middle = int(generator.integers(2, 10)), HEIGHT // 2 + int(generator.integers(-4, 5))
    picture = Image.new("L", (WIDTH, HEIGHT), paper)
    ImageDraw.Draw(picture).text(
        (left, middle), _words(generator, font, WIDTH - left), fill=ink, font=font, anchor="lm"
    )
    noisy = np.asarray(picture) + generator.normal(0, GRAIN, (HEIGHT, WIDTH))
    grey: NDArray[np.uint8] = np.clip(np.round(noisy), 0, 255).astype(np.uint8)
    return grey


def _words(generator: np.random.Generator, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As many words as fit the width: one at least."""
    drawn: Sequence[str] = [str(word) for word in generator.choice(WORDS, 8, replace=False)]
    fitting = [" ".join(drawn[:count]) for count in range(1, 9)]
    return next((line for line in reversed(fitting) if font.getlength(line) <= width), fitting[0])
