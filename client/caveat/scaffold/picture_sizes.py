"""The height and width at which a model takes pictures: fixed by its input, or those of the pictures beside it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from caveat_spec.artifacts import Tensor

Size = tuple[int, int]
"""Height and width in pixels."""
USUAL = 224
"""Side of a square, where neither the model nor the pictures say more."""
LONGEST = 1024
MOST_LOOKED_AT = 60


def spatial_sizes(tensor: Tensor) -> tuple[int | None, int | None] | None:
    """Height and width in the shape of a picture input, None for those that are free; None for other inputs."""
    if len(tensor.shape) != 4 or not {tensor.shape[1], tensor.shape[3]} & {1, 3}:
        return None
    sizes = tensor.shape[1:3] if is_channels_last(tensor) else tensor.shape[2:4]
    height, width = (size if isinstance(size, int) and size > 0 else None for size in sizes)
    return height, width


def is_channels_last(tensor: Tensor) -> bool:
    """Whether a picture input has its channels as the last axis."""
    return tensor.shape[1] not in (1, 3)


def sizes_to_try(tensor: Tensor, pictures: Iterable[Path]) -> list[Size]:
    """Heights and widths that the input may take, the likeliest first; none for inputs that take no pictures."""
    spatial = spatial_sizes(tensor)
    if spatial is None:
        return []
    height, width = spatial
    if height is not None and width is not None:
        return [(height, width)]
    own = common_size(pictures)
    if height is not None:
        return [(height, _in_proportion(height, own[::-1] if own else None))]
    if width is not None:
        return [(_in_proportion(width, own), width)]
    square = (USUAL, USUAL)
    if own is None or max(own) > LONGEST:
        return [square]
    return list(dict.fromkeys([own, square] if max(own) <= USUAL else [square, own]))


def common_size(pictures: Iterable[Path]) -> Size | None:
    """The size that the first pictures all have; None where they differ, cannot be read, or Pillow is absent."""
    if find_spec("PIL") is None:  # a client without the engine may lack it
        return None
    from PIL import Image

    found = set()
    for path in islice(pictures, MOST_LOOKED_AT):
        try:
            with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
                found.add((picture.height, picture.width))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
    return next(iter(found)) if len(found) == 1 else None


def _in_proportion(fixed: int, own: Size | None) -> int:
    """The free side in the proportions of `own`, which has it first; a square's without."""
    return fixed if own is None else min(LONGEST, max(1, round(fixed * own[0] / own[1])))
