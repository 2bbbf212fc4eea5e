"""Slow, literal forward passes in float64: no folded normalisation, no ONNX, weights as the packages keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = Any
"""An array of float64; its shape is said where it matters."""


def efficientnet_lite0(state: Mapping[str, Array], image: Array) -> dict[str, Array]:
    """`image` [3, 224, 224] → what each block makes, and the logits."""

    def normalised(x: Array, name: str) -> Array:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(variance + 1e-3) * weight + bias

    def convolved(x: Array, name: str, norm: str, stride: int = 1) -> Array:
        return normalised(convolution_same(x, state[f"{name}.weight"], stride), norm)

    def relu6(x: Array) -> Array:
        return np.minimum(np.maximum(x, 0), 6)

    seen = {}
    x = relu6(convolved(image, "_conv_stem", "_bn0", stride=2))
    halving = {1, 3, 5, 11}
    for number in range(16):
        block, y = f"_blocks.{number}", x
        if f"{block}._expand_conv.weight" in state:
            y = relu6(convolved(y, f"{block}._expand_conv", f"{block}._bn0"))
        y = relu6(convolved(y, f"{block}._depthwise_conv", f"{block}._bn1", stride=2 if number in halving else 1))
        y = convolved(y, f"{block}._project_conv", f"{block}._bn2")
        x = x + y if x.shape == y.shape else y
        seen[f"block{number}"] = x
    x = relu6(convolved(x, "_conv_head", "_bn1")).mean((1, 2))
    seen["logits"] = state["_fc.weight"] @ x + state["_fc.bias"]
    return seen


def squeezenet(weights: Mapping[str, tuple[Array, Array]], image: Array) -> dict[str, Array]:
    """`image` [3, 224, 224] → what each fire module makes, and the logits; kernels are [height, width, in, out]."""

    def relu(x: Array, name: str) -> Array:
        kernel, bias = weights[name]
        return np.maximum(convolution_same(x, kernel.transpose(3, 2, 0, 1), 1) + bias[:, None, None], 0)

    def pooled(x: Array) -> Array:
        return sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((3, 4))

    kernel, bias = weights["conv1"]
    windows = sliding_window_view(image, (3, 3), (1, 2))[:, ::2, ::2]
    x = np.maximum(np.einsum("chwij,ijco->ohw", windows, kernel, optimize=True) + bias[:, None, None], 0)
    x, seen = pooled(x), {}
    for number in range(2, 10):
        x = relu(x, f"fire{number}/squeeze1x1")
        x = np.concatenate([relu(x, f"fire{number}/expand1x1"), relu(x, f"fire{number}/expand3x3")])
        seen[f"fire{number}"] = x
        x = pooled(x) if number in (3, 5) else x
    seen["logits"] = relu(x, "conv10").mean((1, 2))
    return seen


def convolution_same(x: Array, kernel: Array, stride: int) -> Array:
    """TensorFlow's SAME convolution of [in, h, w] with [out, in, k, k], or with [out, 1, k, k] channel by channel."""
    size = kernel.shape[2]
    total = [max((-(-side // stride) - 1) * stride + size - side, 0) for side in x.shape[1:]]
    padded = np.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in total)])
    windows = sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    if kernel.shape[1] == 1:
        return np.einsum("chwij,cij->chw", windows, kernel[:, 0])
    return np.einsum("chwij,ocij->ohw", windows, kernel, optimize=True)
