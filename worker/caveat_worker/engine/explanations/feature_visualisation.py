"""Feature visualisation: pictures that are made so that something inside a model responds to them most.

Gradient ascent on the picture's frequencies, in colours without correlation (Olah et al. 2017, "Feature
Visualization"). The way is chaotic: one last bit at the start changes most pixels at the end, though hardly the
response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft

from caveat_worker.engine.base.arrays import AnyArray, Float32Array, Float64Array, Indices
from caveat_worker.engine.explanations.atoms import by_position, channel_axis

RATE = 0.05
"""Adam's step."""
START = 0.01
"""Standard deviation of the frequencies that a picture begins with."""
CONTRAST = 0.25
"""What frequencies are multiplied by."""
SHIFT = 16
"""Pixels by which a picture is moved at most before each step, an eighth of a small one's side: what depends on the
exact place is not raised."""
FEWEST_COSINE = 0.1
"""The response along a direction is multiplied by the cosine to it, and by this where that is lower."""

Ascend = Callable[[Float32Array], tuple[Float64Array, Float32Array]]
"""Inputs [k, colours, height, width] → how strongly each atom responds to its own [k], and the derivative by them."""


@dataclass(frozen=True)
class Palette:
    """What pictures of a set are like: the range of each colour, and how colours go together."""

    low: Float32Array
    """[colours]"""
    high: Float32Array
    """[colours]"""
    mixing: Float32Array
    """[colours, colours] a square root of their covariance, as a share of the ranges."""

    @classmethod
    def of(cls, x: AnyArray) -> Palette:
        """The palette of pictures [n, colours, height, width]."""
        low, high = x.min((0, 2, 3)), x.max((0, 2, 3))
        width = np.where(high > low, high - low, 1)
        flat = ((x - low[:, None, None]) / width[:, None, None]).transpose(1, 0, 2, 3).reshape(x.shape[1], -1)
        size, axes = np.linalg.eigh(np.cov(flat).reshape(x.shape[1], x.shape[1]))
        root = axes * np.sqrt(np.maximum(size, 0))
        longest = np.linalg.norm(root, axis=1).max() or 1.0
        return cls(*(np.asarray(one, np.float32) for one in (low, high, root / longest)))

    def painted(self, shares: Float32Array) -> Float32Array:
        """Pictures of shares from 0 to 1 [k, colours, height, width] as the model takes them."""
        low, high = self.low[:, None, None], self.high[:, None, None]
        return np.asarray(low + (high - low) * shares, np.float32)


@dataclass(frozen=True)
class Made:
    """Pictures that were made, and how strongly atoms respond to them."""

    shares: Float32Array
    """[k, colours, height, width] from 0 to 1, of each colour's range."""
    responses: Float64Array
    """[k] at the pictures as they are."""
    rise: Float64Array
    """[k, steps] before each step, at the pictures as they were moved."""


def feature_visualisation(
    ascend: Ascend,
    palette: Palette,
    size: tuple[int, int],
    seeds: Sequence[Sequence[int]],
    steps: int,
    *,
    instead: Float32Array | None = None,
    stepped: Callable[[int], None] = lambda _: None,
) -> Made:
    """A picture [height, width] for each of k atoms; `seeds` are theirs, and `stepped` counts the steps.

    `instead` [k, colours, height, width] are inputs with which those begin to whose noise an atom does not respond at
    all, so that there is no derivative to follow. All are moved alike; a picture depends on those beside it only by
    what a batch does to the last bit.
    """
    scale = frequency_scale(size)
    shape = (2, len(palette.low), *scale.shape)
    parts = np.stack([np.random.default_rng(seed).normal(0, START, shape) for seed in seeds]).astype(np.float32)
    reach = [min(SHIFT, side // 8) for side in size]
    moves = np.random.default_rng([*size, steps]).integers(np.negative(reach), np.add(reach, 1), (steps, 2))
    first, second, rise = np.zeros_like(parts), np.zeros_like(parts), np.zeros((len(seeds), steps))
    for step, move in enumerate(moves):
        shares = picture_of(parts, scale, palette, size)
        moved = np.roll(palette.painted(shares), move, (2, 3))
        rise[:, step], g = ascend(moved)
        if step == 0 and instead is not None and not g.any((1, 2, 3)).all():
            still = ~g.any((1, 2, 3))
            parts[still] = parts_of(instead[still], scale, palette)
            shares = picture_of(parts, scale, palette, size)
            rise[:, step], g = ascend(np.roll(palette.painted(shares), move, (2, 3)))
        g = np.roll(g, -move, (2, 3)) * (palette.high - palette.low)[:, None, None]
        gradient = pulled_back(g * shares * (1 - shares), scale, palette)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        slope = first / (1 - 0.9 ** (step + 1))
        parts += RATE * slope / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
        stepped(len(seeds))
    shares = picture_of(parts, scale, palette, size)
    return Made(shares, ascend(palette.painted(shares))[0], rise)


def frequency_scale(size: tuple[int, int]) -> Float32Array:
    """What each frequency [height, width // 2 + 1] is multiplied by: pictures have more of the low ones."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    return np.asarray(CONTRAST / np.maximum(frequency, 1 / max(size)), np.float32)


def picture_of(parts: Float32Array, scale: Float32Array, palette: Palette, size: tuple[int, int]) -> Float32Array:
    """The shares [k, colours, height, width] of real and imaginary frequencies [k, 2, colours, …]."""
    waves = scipy.fft.irfft2((parts[:, 0] + 1j * parts[:, 1]) * scale, s=size, norm="ortho")
    mixed = np.einsum("dc,kchw->kdhw", palette.mixing, waves)
    return np.asarray(1 / (1 + np.exp(-mixed)), np.float32)


def parts_of(x: Float32Array, scale: Float32Array, palette: Palette) -> Float32Array:
    """The frequencies [k, 2, colours, …] of inputs [k, colours, height, width], less what no share can be."""
    low, wide = palette.low[:, None, None], np.maximum(palette.high - palette.low, np.finfo(np.float32).tiny)
    shares = np.clip((x - low) / wide[:, None, None], 0.05, 0.95)
    unmixed = np.einsum("cd,kdhw->kchw", np.linalg.pinv(palette.mixing), np.log(shares / (1 - shares)))
    waves = scipy.fft.rfft2(unmixed, norm="ortho") / scale
    return np.stack([waves.real, waves.imag], 1).astype(np.float32)


def pulled_back(g: Float32Array, scale: Float32Array, palette: Palette) -> Float32Array:
    """The derivative by the frequencies [k, 2, colours, …] of one by the picture before it is squashed into shares."""
    unmixed = np.einsum("dc,kdhw->kchw", palette.mixing, g)
    waves = scipy.fft.rfft2(unmixed, norm="ortho") * scale
    waves[..., 1 : (g.shape[-1] + 1) // 2] *= 2  # each of these stands for its conjugate too
    return np.stack([waves.real, waves.imag], 1)


@dataclass(frozen=True)
class Aim:
    """What a picture is made for: a response to activations of one layer, and how it is raised."""

    weights: Float64Array
    """[channels] of a layer with positions, else of the layer's own shape."""
    origin: float | None = None
    """What is subtracted from the sum of activations times weights, where that is a concept score."""
    cosine: bool = False
    """Whether the response is raised times its cosine, so that it is the direction that grows, and not the length."""
    centre: bool = False
    """Whether it is that of one position, and not the mean over all."""

    def responses(self, a: AnyArray) -> tuple[Float64Array, Indices]:
        """How strongly it responds to each example's activations [n, …], and at which position most [n].

        The mean over positions; of one position, that of the strongest.
        """
        if not self._pools(a):
            return self._sum(a), np.zeros(len(a), np.intp)
        along = by_position(a).astype(float) @ self.weights
        places = along.argmax(1)
        strongest: Float64Array = np.take_along_axis(along, places[:, None], 1)[:, 0]
        return (strongest if self.centre else along.mean(1)) - (self.origin or 0.0), places

    def values(self, a: AnyArray) -> Float64Array:
        """The response to a made picture's activations [k, …]: of one position, that in the middle."""
        if not self._pools(a):
            return self._sum(a)
        pooled = _shares(a.shape, centre=self.centre) @ by_position(a).astype(float)
        return np.asarray(pooled @ self.weights - (self.origin or 0.0))

    def derivatives(self, a: AnyArray) -> Float32Array:
        """The derivative [k, …] of what is raised by activations, whose numbers are not read without `cosine`."""
        pools = self._pools(a)
        share = _shares(a.shape, centre=self.centre) if pools else np.ones(1)
        v = self.weights.reshape(-1)
        if self.cosine:
            wide = by_position(a).astype(float) if pools else a.reshape(len(a), 1, -1).astype(float)
            slope = _towards(share @ wide, v)
        else:
            slope = np.broadcast_to(v, (len(a), len(v)))
        seeds = share[:, None] * slope[:, None]  # [k, positions, channels]
        if pools and channel_axis(a.shape) == 1:
            seeds = seeds.swapaxes(1, 2)
        return np.ascontiguousarray(seeds.reshape(a.shape), np.float32)

    def _pools(self, a: AnyArray) -> bool:
        return channel_axis(a.shape) is not None and self.weights.ndim == 1

    def _sum(self, a: AnyArray) -> Float64Array:
        return a.reshape(len(a), -1).astype(float) @ self.weights.reshape(-1) - (self.origin or 0.0)


def _shares(shape: Sequence[int], *, centre: bool) -> Float64Array:
    """How much of a response each position of a layer [n, …] has, row by row: all alike, or the middle alone."""
    axis = channel_axis(shape)
    places = [size for one, size in enumerate(shape) if one not in (0, axis)]
    count = int(np.prod(places))
    if not centre:
        return np.full(count, 1 / count)
    middle = int(np.ravel_multi_index([size // 2 for size in places], places))
    return np.asarray(np.eye(1, count, middle)[0])


def _towards(h: Float64Array, v: Float64Array) -> Float64Array:
    """The derivative [k, d] of h·v times the cosine between them (Olah et al. 2017)."""
    dot, length, size = h @ v, np.linalg.norm(h, axis=1) + 1e-12, np.linalg.norm(v)
    cosine = dot / (length * size)
    near = cosine > FEWEST_COSINE
    steep, shrink = np.where(near, 2 * cosine, FEWEST_COSINE), np.where(near, dot * cosine / length**2, 0)
    found: Float64Array = steep[:, None] * v - shrink[:, None] * h
    return found
