"""Rows of docs/building-blocks.md about made pictures: planted waves, photographs, and torch with lucent's way."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np

from bench.measure import timed
from bench.rows import Row, at_least, at_most
from caveat_worker.engine.autodiff.differentiate import expose
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.resized import resized
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.base.arrays import Float32Array
from caveat_worker.engine.explanations.feature_visualisation import Aim, Palette, feature_visualisation
from caveat_worker.engine.explanations.model_runs import OpenModel
from caveat_worker.engine.onnx.session import open_session
from caveat_worker.engine.panels.visualised import Studio, at_size, studio_of

BLOCK = "`caveat visualise`"
SIDE, STEPS, CHANNELS = 128, 256, 4
LAYERS = {"SqueezeNet 1.1": ("fire3", "fire8"), "EfficientNet-lite0": ("block5", "block13")}
ROUNDS, TIMED_STEPS = 5, 16


def made_pictures() -> Iterator[Row]:
    """Waves that were planted, responses against the best photograph's, and CPU time beside torch's."""
    from tests.explanations import test_feature_visualisation as planted

    off = []
    for channel, angle in enumerate(planted.ANGLES):
        ascend, _ = planted.ascent(planted.gabors(), Aim(np.eye(1, len(planted.ANGLES), channel)[0]))
        made = feature_visualisation(ascend, planted.noise_palette(), (planted.SIDE, planted.SIDE), [[0, channel]], 96)
        off.append(abs((planted.angle_of(made.shares[0, 0]) - angle + 90) % 180 - 90))
    yield at_most(BLOCK, "degrees off the direction of five planted Gabor patches, the worst", 5, max(off), "{:.1f}")
    ratios, rising = [], []
    for name, layers in LAYERS.items():
        for layer in layers:
            for ratio, rose in _channels(name, layer):
                ratios.append(ratio)
                rising.append(rose)
    claim = f"response to the made picture : to the best of 15 photographs, {len(ratios)} channels of four layers,"
    yield at_least(BLOCK, f"{claim} the lowest", 1, min(ratios), "{:.1f}")
    yield Row(BLOCK, f"{claim} the median", "", f"{median(ratios):.1f}", None)
    claim = "the same channels: the mean response of each 32 steps above that of the 32 before, share"
    yield Row(BLOCK, claim, "", f"{np.mean(rising):.2f}", None)
    for name, layers in LAYERS.items():
        seconds, ratio = _beside_torch(name, layers[-1])
        what = f"CPU seconds of a picture for {name}'s `{layers[-1]}`, {SIDE} px, {STEPS} steps"
        yield Row(BLOCK, what, "", f"{seconds:.1f}", None)
        yield at_most(BLOCK, f"CPU : torch's, in lucent's way; a step at {name}'s `{layers[-1]}`", 1, ratio, "{:.2f}")


def _photographs(name: str) -> Float32Array:
    """Photographs as a network reads them [n, 3, 224, 224]."""
    from examples.watermark.photographs import BUNDLED, photograph

    every = [np.asarray(photograph(one).resize((224, 224)), np.float32) for one in BUNDLED]
    x = np.stack(every).transpose(0, 3, 1, 2)
    if name.startswith("SqueezeNet"):
        return np.ascontiguousarray(x[:, ::-1] - np.array([104, 117, 123], np.float32).reshape(1, 3, 1, 1))
    return np.asarray((x - 127) / 128, np.float32)


def _model(name: str) -> Model:
    from examples.watermark.efficientnet import efficientnet_lite0
    from examples.watermark.squeezenet import squeezenet

    proto = squeezenet() if name.startswith("SqueezeNet") else efficientnet_lite0()
    return load(proto.SerializeToString(), interacts=False)


def _studio(model: Model, layer: str, aim: Aim) -> Studio:
    """What makes the product's pictures for a layer, at the size that they have by default."""
    opened = OpenModel(model, Target("t", index=0))
    return studio_of(opened, layer, (224, 224), SIDE, aim, {})


def _channels(name: str, layer: str) -> Iterator[tuple[float, float]]:
    """For channels that photographs activate, the ratio of responses, and the share of times at which it rose."""
    model, x = _model(name), _photographs(name)
    entry = model.inputs[0].name
    a = open_session(expose(model, [layer]), threads=1).run({entry: x})[layer].mean((2, 3))
    order = np.argsort(-a.max(0))
    aims = {int(one): Aim(np.eye(1, a.shape[1], one)[0]) for one in order[:: len(order) // CHANNELS][:CHANNELS]}
    studio = _studio(model, layer, next(iter(aims.values())))
    for channel, aim in aims.items():
        best, seeds = x[[a[:, channel].argmax()]], [[0, channel]]
        made = feature_visualisation(
            studio.ascend(aim), Palette.of(x), studio.size, seeds, STEPS, instead=at_size(best, studio.size)
        )
        parts = np.array([part.mean() for part in np.array_split(made.rise[0], STEPS // 32)])
        yield float(made.responses[0] / a[:, channel].max()), float((np.diff(parts) > 0).mean())


def _beside_torch(name: str, layer: str) -> tuple[float, float]:
    """CPU seconds of a picture, and a step's ratio to one with lucent's parameters, torch's Adam and the same model."""
    import torch

    from tests.oracle.autograd import run, weights_of

    torch.set_num_threads(1)
    model, palette = _model(name), Palette.of(_photographs(name))
    entry, aim = model.inputs[0].name, Aim(_one(model, layer))
    small = resized(model, entry, (None, None, SIDE, SIDE), layer)
    ascend, weights = _studio(model, layer, aim).ascend(aim), weights_of(small.ir, torch.float32)
    low, wide = (torch.from_numpy(one).reshape(1, 3, 1, 1) for one in (palette.low, palette.high - palette.low))
    mixing = torch.from_numpy(palette.mixing)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    scale = torch.from_numpy((1 / np.maximum(frequency, 1 / SIDE)).astype(np.float32))
    parts = (0.01 * torch.randn(1, 3, *scale.shape, 2)).requires_grad_(True)
    adam = torch.optim.Adam([parts], lr=0.05)

    def torchs() -> None:
        for _ in range(TIMED_STEPS):
            adam.zero_grad()
            waves = torch.fft.irfft2(torch.view_as_complex(parts) * scale, s=(SIDE, SIDE), norm="ortho") / 4
            shares = torch.sigmoid(torch.einsum("dc,kchw->kdhw", mixing, waves))
            moved = torch.roll(low + wide * shares, (3, -2), (2, 3))
            (-run(small.ir, {entry: moved}, [layer], weights)[layer][:, 3].mean()).backward()
            adam.step()

    def own() -> None:
        feature_visualisation(ascend, palette, (SIDE, SIDE), [[0]], TIMED_STEPS)

    spent: dict[str, list[float]] = {"own": [], "torch": []}
    for _ in range(ROUNDS + 1):
        for which, action in (("own", own), ("torch", torchs)):
            timed(spent[which], action)
    ours, theirs = (median(spent[which][1:]) for which in ("own", "torch"))
    return ours * STEPS / TIMED_STEPS, ours / theirs


def _one(model: Model, layer: str) -> Any:
    """The weights of the layer's fourth channel."""
    value = model.value(layer)
    assert value is not None
    assert value.shape is not None
    return np.eye(1, int(value.shape[1]), 3)[0]  # type: ignore[arg-type]  # known for these models
