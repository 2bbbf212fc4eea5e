"""Pictures as the arrays that a model takes."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    ImageFilter,
    WebPImagePlugin,  # noqa: F401  # without it, the first picture that is saved loads all formats
)

from caveat_spec.audit import Images, Preprocess
from caveat_spec.cautions import SCANNER_BITS, stored_bits
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.archives import corrupt_picture
from caveat_worker.readers.picture_files import chosen_pictures
from caveat_worker.readers.source import ExampleSource, sampled

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000
LOOKED_AT = 64
"""Pictures of a set whose EXIF data are read."""
DECODED = 8
"""Pictures of a set whose greys are looked at, if they have 16 bits."""
ORIENTATION = 0x0112
RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def open_images(declared: Images, path: Path, annotations: Path | None, seed: int) -> ExampleSource:
    """Opens the chosen pictures in the order of their names, or of their rows in a dataset.

    An example is [channels, height, width] or [height, width, channels], normalised by mean and std. Raises
    `InvalidInput` for unreadable archives, datasets and annotations, and if no picture is chosen.
    """
    pictures = chosen_pictures(declared, path, annotations)
    names = list(pictures)
    kept = [names[position] for position in sampled(names, declared, seed)]
    preprocess = declared.preprocess
    channels, size = 1 if preprocess.channels == "gray" else 3, preprocess.height_and_width
    shape = (channels, *size) if preprocess.layout == "nchw" else (*size, channels)

    def picture(position: int) -> Image.Image:
        return _picture(kept[position], pictures[kept[position]](), preprocess.bit_depth)

    def load(positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        return {ONLY: np.stack([_pixels(picture(position), preprocess) for position in positions])}

    def thumbnail(position: int, blurred: bool, pixels: int) -> bytes:
        small_size = _scaled_to(size, pixels)
        shorter = round((preprocess.resize or 1) * pixels / max(size))
        small = _fitted(_in_colours(picture(position)), preprocess, small_size, shorter)
        return _webp(small.filter(ImageFilter.GaussianBlur(pixels / 12)) if blurred else small)

    def contents() -> list[bytes]:
        how = preprocess.model_dump_json().encode()
        return [hashlib.blake2b(pictures[name](), key=hashlib.sha256(how).digest()).digest() for name in kept]

    looked_at = [pictures[name]() for name in kept[:LOOKED_AT]]
    return ExampleSource(
        kind="images",
        names=tuple(kept),
        shapes={ONLY: shape},
        load=load,
        thumbnail=thumbnail,
        contents=contents,
        warnings=(*_about_turned(looked_at), *_about_dark(looked_at[:DECODED], preprocess.bit_depth)),
    )


def _about_turned(files: Sequence[bytes]) -> tuple[str, ...]:
    """A clause where EXIF data say that pictures are to be turned before they are shown, which no model sees."""
    turned = sum(map(_is_turned, files))
    if not turned:
        return ()
    return (
        f"{turned} of {len(files)} pictures have EXIF data by which a viewer turns them; the model is given them as "
        "they are stored, as most training code does, so store them upright if yours turned them",
    )


def _is_turned(data: bytes) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):  # of EXIF data that are rubbish
            return Image.open(io.BytesIO(data), formats=FORMATS).getexif().get(ORIENTATION, 1) in range(2, 9)
    except Exception:  # each format has its own; whoever loads the picture says what is wrong with it
        return False


def _about_dark(files: Sequence[bytes], bit_depth: int | None) -> tuple[str, ...]:
    """A clause where pictures of 16 bits have greys of fewer bits, as scanners store them: a model sees them black."""
    if bit_depth is not None:
        return ()
    found = [level for level in map(_brightest_of_16_bits, files) if level is not None]
    brightest = max(found, default=0)
    stored = next((bits for bits in SCANNER_BITS if brightest < 2**bits), None)
    if not brightest or stored is None:  # pictures that are all black say nothing
        return ()
    return (
        f"no grey of {len(found)} pictures of 16 bits is over {brightest:,} of 65,535, so they are almost "
        f"black to the model; if their scanner stores {stored} bits, {stored_bits(stored)}",
    )


def _brightest_of_16_bits(data: bytes) -> int | None:
    """The largest grey of a picture of 16 bits; None for others."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        deep = picture.mode.startswith("I") and picture.width * picture.height <= MAX_PIXELS
        return int(np.asarray(picture).max()) if deep else None
    except Exception:  # each format has its own; whoever loads the picture says what is wrong with it
        return None


def _picture(name: str, data: bytes, bit_depth: int | None) -> Image.Image:
    """Decodes a picture, greys of 16 bits as floats from 0 to 255.

    Raises `InvalidInput` for other formats, sizes over the limit, and greys that take more than `bit_depth` bits.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise _too_large(name, f"{picture.width} x {picture.height} pixels")
        picture.load()
    except (InvalidInput, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(name, "more pixels than any camera makes") from error
    except Exception as error:  # each format has its own
        raise corrupt_picture(name, error) from error
    return _of_16_bits(name, picture, bit_depth or 16) if picture.mode.startswith("I") else picture


def _of_16_bits(name: str, picture: Image.Image, bits: int) -> Image.Image:
    """Greys of 0 to 2 ** bits - 1 as floats from 0 to 255: Pillow itself makes all over 255 white."""
    greys, white = np.asarray(picture).astype(np.float32), 2**bits - 1
    if greys.max() > white:
        raise InvalidInput(
            "picture-too-bright",
            f"Picture '{name}' has a grey of {int(greys.max()):,}, and {bits} bits hold {white:,} at most.",
            f"Set 'bit_depth' in 'preprocess' to {int(greys.max()).bit_length()}, or leave it out.",
        )
    greys *= 255
    return Image.fromarray(greys / white)


def _in_colours(picture: Image.Image) -> Image.Image:
    """The picture as people are shown it."""
    if picture.mode == "F":
        picture = Image.fromarray(np.asarray(picture).round().astype(np.uint8))
    return picture.convert("RGB")


def _too_large(name: str, what: str) -> InvalidInput:
    return InvalidInput(
        "picture-too-large",
        f"Picture '{name}' has {what}; {MAX_PIXELS:,} are allowed.",
        "Send a smaller one: it is resized for the model anyway.",
    )


def _pixels(picture: Image.Image, how: Preprocess) -> NDArray[np.float32]:
    """The model's input for one picture: float32 [channels, height, width] or [height, width, channels]."""
    if picture.mode != "F":
        picture = picture.convert("L" if how.channels == "gray" else "RGB")
    fitted = _fitted(picture, how, how.height_and_width, how.resize or 1)
    pixels = np.asarray(fitted).reshape(*how.height_and_width, -1)
    if picture.mode == "F":  # bicubic interpolation goes beyond white and black where no integers end it
        pixels = np.repeat(pixels.clip(0, 255), 1 if how.channels == "gray" else 3, axis=2)
    if how.channels == "bgr":
        pixels = pixels[..., ::-1]
    planes = np.array(pixels.transpose(2, 0, 1), np.float32, order="C")  # plane by plane is several times faster
    planes -= np.asarray(how.mean, np.float32).reshape(-1, 1, 1)
    planes /= np.asarray(how.std, np.float32).reshape(-1, 1, 1)
    return planes if how.layout == "nchw" else np.ascontiguousarray(planes.transpose(1, 2, 0))


def _fitted(picture: Image.Image, how: Preprocess, size: tuple[int, int], shorter: int = 1) -> Image.Image:
    """The picture at a height and width: squashed, or cropped at the centre once it is as small as it can be.

    Its shorter side keeps `shorter` pixels or more before the crop.
    """
    resampling, (height, width) = RESAMPLING[how.interpolation], size
    if how.fit == "squash":
        return picture.resize((width, height), resampling)
    scale = max(height / picture.height, width / picture.width, shorter / min(picture.size))
    scaled = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    if scaled[0] * scaled[1] > MAX_PIXELS:
        raise InvalidInput(
            "picture-too-long",
            f"A picture of {picture.width} x {picture.height} pixels would have {scaled[0]} x {scaled[1]} once it is "
            "scaled.",
            "Cut it to what the model should see, or set 'fit' to 'squash'.",
        )
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return picture.resize(scaled, resampling).crop((left, top, left + width, top + height))


def _scaled_to(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """A height and width of these proportions, the longer of `longer` pixels."""
    height, width = (max(1, round(side * longer / max(size))) for side in size)
    return height, width


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70, method=4)
    return buffer.getvalue()
