"""Renders the marks, once, from a font; the demo itself needs none.

python -m examples.watermark.render_marks /usr/share/fonts/truetype/wqy/wqy-zenhei.ttc
"""

from __future__ import annotations

import sys

from PIL import Image, ImageDraw, ImageFont

from examples.watermark.marks import MARKS
from examples.watermark.photographs import SIDE

TEXTS = {"chinese": "捷径捷径捷径", "latin": "shortcuts"}
"""The same word in two scripts; both lines cover 4.3 % of a crop and are 36 pixels high."""

WIDTH = 216
"""Pixels that a line may span: six Chinese characters of 36 pixels."""


def render(text: str, font_file: str) -> Image.Image:
    """One line in the centre: greyscale, `SIDE` pixels square, 255 where the ink covers fully."""
    mask = Image.new("L", (SIDE, SIDE), 0)
    centre = (SIDE / 2, SIDE / 2)
    ImageDraw.Draw(mask).text(centre, text, fill=255, font=largest_font(text, font_file), anchor="mm")
    return mask


def largest_font(text: str, font_file: str) -> ImageFont.FreeTypeFont:
    """The font in the largest whole size in which the line fits `WIDTH`."""
    sizes = (ImageFont.truetype(font_file, size) for size in range(WIDTH, 0, -1))
    return next(font for font in sizes if font.getlength(text) <= WIDTH)


if __name__ == "__main__":
    for name, text in TEXTS.items():
        render(text, sys.argv[1]).save(MARKS / f"{name}.png", optimize=True)
