"""Marks over photographs: ink kept as small masks, laid on in translucent white."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

MARKS = Path(__file__).parent / "marks"

OPACITY = 0.5


def mark(name: str) -> Image.Image:
    """A mask of `marks/`: greyscale, 224 pixels square, 255 where the ink covers fully."""
    return Image.open(MARKS / f"{name}.png")


def marked(photograph: Image.Image, mask: Image.Image) -> Image.Image:
    """The photograph under white ink of `OPACITY`."""
    alpha = mask.point([round(OPACITY * ink) for ink in range(256)])
    return Image.composite(Image.new("RGB", photograph.size, "white"), photograph, alpha)
