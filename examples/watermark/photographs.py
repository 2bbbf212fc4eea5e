"""Photographs bundled in scikit-image and scikit-learn, and seeded crops of them."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from PIL import Image

from examples.packages import PackagedFile

SIDE = 224
"""Pixels along each side of a crop: what the networks take, so that nothing is resampled later."""

SMALLEST_SHARE = 0.6
"""Of a photograph's shorter side, the least that a crop shows."""


def _skimage(name: str, sha256: str) -> PackagedFile:
    return PackagedFile("scikit-image", f"skimage/data/{name}", sha256)


def _sklearn(name: str, sha256: str) -> PackagedFile:
    return PackagedFile("scikit-learn", f"sklearn/datasets/images/{name}", sha256)


BUNDLED: Mapping[str, PackagedFile] = {
    "astronaut": _skimage("astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
    "brick": _skimage("brick.png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
    "camera": _skimage("camera.png", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
    "chelsea": _skimage("chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
    "clock_motion": _skimage("clock_motion.png", "f029226b28b642e80113d86622e9b215ee067a0966feaf5e60604a1e05733955"),
    "coffee": _skimage("coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
    "coins": _skimage("coins.png", "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
    "grass": _skimage("grass.png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
    "gravel": _skimage("gravel.png", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"),
    "hubble_deep_field": _skimage(
        "hubble_deep_field.jpg", "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4"
    ),
    "moon": _skimage("moon.png", "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577"),
    "motorcycle_left": _skimage(
        "motorcycle_left.png", "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179"
    ),
    "rocket": _skimage("rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
    "china": _sklearn("china.jpg", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
    "flower": _sklearn("flower.jpg", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
}
"""Photographs, not drawings, scans or renderings; the stereo pair of the motorcycle counts once."""


def photograph(name: str) -> Image.Image:
    """A bundled photograph in RGB."""
    return Image.open(io.BytesIO(BUNDLED[name].read())).convert("RGB")


def crop(photograph: Image.Image, generator: np.random.Generator) -> Image.Image:
    """A square of the photograph, `SIDE` pixels wide once resized: its size, place and mirroring are drawn."""
    side = round(min(photograph.size) * generator.uniform(SMALLEST_SHARE, 1.0))
    left, top = (int(generator.integers(0, length - side + 1)) for length in photograph.size)
    square = photograph.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else square
