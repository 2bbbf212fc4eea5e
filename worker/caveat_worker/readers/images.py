"""Pictures in a zip or a tar."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    ImageFilter,
    WebPImagePlugin,  # noqa: F401  # without it, the first picture that is saved loads all formats
)

from caveat_spec.audit import Images, Preprocess
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.readers.source import ExampleSource, is_zip, sampled

FORMATS = ("PNG", "JPEG", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
MAX_ENTRIES = 200_000
MAX_ENTRY_BYTES = 64 * 2**20
MAX_TOTAL_BYTES = 16 * 2**30
MAX_PIXELS = 64_000_000
THUMBNAIL_PIXELS = 96
RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


def open_images(declared: Images, path: Path, seed: int) -> ExampleSource:
    """Opens the pictures of an archive in the order of their names; raises `InvalidInput` for unreadable archives.

    An example is [channels, size, size] or [size, size, channels], normalised by mean and std.
    """
    entries = _zip_entries(path) if is_zip(path) else _tar_entries(path)
    pictures = {
        name: read
        for name, read in sorted(entries.items())
        if PurePosixPath(name).suffix.lower() in SUFFIXES and not PurePosixPath(name).name.startswith(".")
    }
    if not pictures:
        raise InvalidInput(
            "no-pictures",
            f"The archive holds {len(entries)} files and none of them is a picture.",
            "Put PNG, JPEG or WebP files into it.",
        )
    names = list(pictures)
    kept = [names[position] for position in sampled(names, declared.limit, seed)]
    preprocess = declared.preprocess
    channels, size = 1 if preprocess.channels == "gray" else 3, preprocess.size
    shape = (channels, size, size) if preprocess.layout == "nchw" else (size, size, channels)

    def load(positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        return {ONLY: np.stack([_pixels(_picture(kept[i], pictures[kept[i]]()), preprocess) for i in positions])}

    def thumbnail(position: int, blurred: bool) -> bytes:
        picture = _picture(kept[position], pictures[kept[position]]()).convert("RGB")
        small = _fitted(picture, preprocess, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS)
        return _webp(small.filter(ImageFilter.GaussianBlur(THUMBNAIL_PIXELS / 12)) if blurred else small)

    def contents() -> list[bytes]:
        how = preprocess.model_dump_json().encode()
        return [hashlib.blake2b(pictures[name](), key=hashlib.sha256(how).digest()).digest() for name in kept]

    return ExampleSource(
        kind="images", names=tuple(kept), shapes={ONLY: shape}, load=load, thumbnail=thumbnail, contents=contents
    )


def _zip_entries(path: Path) -> dict[str, Callable[[], bytes]]:
    """The files of a zip: name → function that reads it; raises `InvalidInput` for sizes over the limits."""
    try:
        archive = zipfile.ZipFile(path)
        members = [member for member in archive.infolist() if not member.is_dir()]
    except Exception as error:  # malformed bytes make the library raise almost anything
        raise _not_an_archive(error) from error
    _check_sizes([(member.filename, member.file_size) for member in members])
    return {member.filename: partial(_read_zip, archive, member) for member in members}


def _read_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as stream:
            return stream.read(MAX_ENTRY_BYTES)
    except MemoryError:
        raise
    except Exception as error:  # each kind of compression has its own
        raise _corrupt(member.filename, error) from error


def _tar_entries(path: Path) -> dict[str, Callable[[], bytes]]:
    """The regular files of an uncompressed tar: name → function that reads it.

    Raises `InvalidInput` for sizes over the limits; links are left out.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            members = [member for member in archive if member.isreg() and not member.issparse()]
    except Exception as error:  # malformed bytes make the library raise almost anything
        raise _not_an_archive(error) from error
    _check_sizes([(member.name, member.size) for member in members])
    return {member.name: partial(_read_slice, path, member.offset_data, member.size) for member in members}


def _read_slice(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


def _not_an_archive(error: Exception) -> InvalidInput:
    return InvalidInput(
        "not-an-archive",
        f"The pictures are neither a zip nor an uncompressed tar that can be read ({error}).",
        "Pack the folder of pictures as .zip or .tar and send that.",
    )


def _check_sizes(entries: list[tuple[str, int]]) -> None:
    """Raises `InvalidInput` for too many files, files that are too large, and repeated names."""
    total = sum(size for _, size in entries)
    large = next((name for name, size in entries if size > MAX_ENTRY_BYTES), None)
    if len(entries) > MAX_ENTRIES or total > MAX_TOTAL_BYTES or large is not None:
        what = f"its file '{large}' is" if large is not None else f"its {len(entries)} files are"
        raise InvalidInput(
            "archive-too-large",
            f"The archive is too large: {what} over the limit once unpacked.",
            f"Stay under {MAX_ENTRIES:,} files, {MAX_ENTRY_BYTES >> 20} MiB a file and "
            f"{MAX_TOTAL_BYTES >> 30} GiB in all.",
        )
    if any(size < 0 for _, size in entries):
        raise _not_an_archive(ValueError("a file of negative size"))
    names: set[str] = set()
    repeated = next((name for name, _ in entries if name in names or names.add(name)), None)  # type: ignore[func-returns-value]
    if repeated is not None:
        raise InvalidInput(
            "repeated-name", f"The archive holds '{repeated}' more than once.", "Give each file a name of its own."
        )


def _picture(name: str, data: bytes) -> Image.Image:
    """Decodes a picture; raises `InvalidInput` with its name for other formats and sizes over the limit."""
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
        raise _corrupt(name, error) from error
    return picture


def _too_large(name: str, what: str) -> InvalidInput:
    return InvalidInput(
        "picture-too-large",
        f"Picture '{name}' has {what}; {MAX_PIXELS:,} are allowed.",
        "Send a smaller one: it is resized for the model anyway.",
    )


def _corrupt(name: str, error: Exception) -> InvalidInput:
    return InvalidInput(
        "corrupt-picture",
        f"Picture '{name}' cannot be decoded ({type(error).__name__}).",
        "Replace it by a whole PNG, JPEG or WebP file, or take it out of the set.",
    )


def _pixels(picture: Image.Image, how: Preprocess) -> NDArray[np.float32]:
    """The model's input for one picture: float32 [channels, size, size] or [size, size, channels]."""
    mode = "L" if how.channels == "gray" else "RGB"
    fitted = _fitted(picture.convert(mode), how, how.size, how.resize or how.size)
    pixels = np.asarray(fitted).reshape(how.size, how.size, -1)
    if how.channels == "bgr":
        pixels = pixels[..., ::-1]
    planes = np.array(pixels.transpose(2, 0, 1), np.float32, order="C")  # plane by plane is several times faster
    planes -= np.asarray(how.mean, np.float32).reshape(-1, 1, 1)
    planes /= np.asarray(how.std, np.float32).reshape(-1, 1, 1)
    return planes if how.layout == "nchw" else np.ascontiguousarray(planes.transpose(1, 2, 0))


def _fitted(picture: Image.Image, how: Preprocess, size: int, shorter: int) -> Image.Image:
    """The picture as a square of `size` pixels: squashed, or scaled to `shorter` on its shorter side and cropped."""
    resampling = RESAMPLING[how.interpolation]
    if how.fit == "squash":
        return picture.resize((size, size), resampling)
    scale = max(shorter, size) / min(picture.size)
    width, height = (max(size, round(side * scale)) for side in picture.size)
    if width * height > MAX_PIXELS:
        raise InvalidInput(
            "picture-too-long",
            f"A picture of {picture.width} x {picture.height} pixels would have {width} x {height} once it is scaled.",
            "Cut it to what the model should see, or set 'fit' to 'squash'.",
        )
    left, top = (width - size) // 2, (height - size) // 2
    return picture.resize((width, height), resampling).crop((left, top, left + size, top + size))


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70, method=4)
    return buffer.getvalue()
