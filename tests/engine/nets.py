"""Small networks with seeded weights, one for each family of architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Writes an ONNX graph node by node: `net.op("Relu", x)` returns the name of the output."""

    def __init__(self, seed: int = 0, opset: int = 18) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"{kind.lower()}_{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def weight(self, *shape: int, gain: float = 1.0) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        return self.constant(self.rng.standard_normal(shape) * gain / np.sqrt(fan_in))

    def conv(self, x: str, c: int, m: int, k: int = 3, stride: int = 1, group: int = 1, pads: Any = None) -> str:
        return str(
            self.op(
                "Conv", x, self.weight(m, c // group, k, k), self.weight(m), strides=[stride, stride], group=group,
                pads=pads or [k // 2] * 4,
            )
        )  # fmt: skip

    def norm(self, x: str, c: int) -> str:
        scale, variance = self.rng.uniform(0.5, 1.5, (2, c))
        parts = [
            self.constant(scale),
            self.weight(c, gain=0.1),
            self.weight(c, gain=0.1),
            self.constant(variance),
        ]
        return str(self.op("BatchNormalization", x, *parts))

    def dense(self, x: str, d: int, m: int) -> str:
        return str(self.op("Gemm", x, self.weight(m, d), self.weight(m), transB=1))

    def model(self, shape: tuple[Any, ...], *outputs: str, dtype: int = TensorProto.FLOAT) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            self.initializers,
        )
        domains = {node.domain for node in self.nodes} - {""}
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        return bytes(onnx.shape_inference.infer_shapes(proto).SerializeToString())


def efficientnet(batch: Any = "n") -> bytes:
    """Inverted residuals with depthwise convolutions and Relu6, as in EfficientNet-lite."""
    net = Net(1)
    low, high = net.constant(0.0), net.constant(6.0)
    x = net.op("Clip", net.norm(net.conv("x", 3, 8, stride=2), 8), low, high)
    for stride in (1, 2, 1):
        skip = x
        x = net.op("Clip", net.norm(net.conv(x, 8, 24, k=1), 24), low, high)
        x = net.op("Clip", net.norm(net.conv(x, 24, 24, stride=stride, group=24), 24), low, high)
        x = net.norm(net.conv(x, 24, 8, k=1), 8)
        if stride == 1:
            x = net.op("Add", x, skip)
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model((batch, 3, 16, 16), net.op("Softmax", net.dense(net.op("Dropout", x), 8, 5)))


def squeezenet(batch: Any = "n") -> bytes:
    """Fire modules, max pooling with ceil_mode, and a convolution as the classifier."""
    net = Net(2)
    x = net.op("Relu", net.conv("x", 3, 8, stride=2, pads=[0] * 4))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    for _ in range(2):
        s = net.op("Relu", net.conv(x, 8, 4, k=1))
        x = net.op("Concat", net.op("Relu", net.conv(s, 4, 4, k=1)), net.op("Relu", net.conv(s, 4, 4, k=3)), axis=1)
    x = net.op("Relu", net.conv(net.op("Dropout", x), 8, 5, k=1))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model((batch, 3, 17, 17), net.op("Softmax", x))


def resnet(batch: Any = "n") -> bytes:
    """A strided stem, max pooling, and two residual blocks, one with a projection."""
    net = Net(3)
    x = net.op("Relu", net.norm(net.conv("x", 3, 8, k=7, stride=2), 8))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for c, m, stride in ((8, 8, 1), (8, 16, 2)):
        skip = x if c == m else net.norm(net.conv(x, c, m, k=1, stride=stride), m)
        y = net.op("Relu", net.norm(net.conv(x, c, m, stride=stride), m))
        x = net.op("Relu", net.op("Add", net.norm(net.conv(y, m, m), m), skip))
    x = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.model((batch, 3, 32, 32), net.dense(x, 16, 5))


def googlenet(batch: Any = "n") -> bytes:
    """Local response normalisation and an inception block with a pooled branch."""
    net = Net(4)
    x = net.op("Relu", net.conv("x", 3, 8, stride=2))
    x = net.op("LRN", net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1), size=5, alpha=0.1)
    for c in (8, 16):
        pooled = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
        branches = [
            net.conv(x, c, 4, k=1),
            net.conv(net.op("Relu", net.conv(x, c, 4, k=1)), 4, 4, k=3),
            net.conv(net.op("Relu", net.conv(x, c, 4, k=1)), 4, 4, k=5),
            net.conv(pooled, c, 4, k=1),
        ]
        x = net.op("Concat", *(net.op("Relu", b) for b in branches), axis=1)
    x = net.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    x = net.op("Reshape", x, net.constant([0, -1], np.int64))
    return net.model((batch, 3, 20, 20), net.op("Softmax", net.dense(x, 64, 5)))


def mlp(batch: Any = "n") -> bytes:
    """A multilayer perceptron with one sigmoid at its end."""
    net = Net(5)
    x = net.op("Relu", net.dense("x", 12, 16))
    x = net.op("Tanh", net.op("Add", net.op("MatMul", x, net.weight(16, 8)), net.weight(8)))
    return net.model((batch, 12), net.op("Sigmoid", net.dense(x, 8, 1)))


CONVOLUTIONAL: dict[str, Callable[..., bytes]] = {
    "efficientnet": efficientnet,
    "squeezenet": squeezenet,
    "resnet": resnet,
    "googlenet": googlenet,
}
NETS: dict[str, Callable[..., bytes]] = {**CONVOLUTIONAL, "mlp": mlp}


def noise(model: Any, n: int = 3, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Seeded standard normal values for a model's inputs, n examples."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for tensor in model.inputs:
        shape = [n if i == 0 else d if isinstance(d, int) else 4 for i, d in enumerate(tensor.shape)]
        feeds[tensor.name] = rng.standard_normal(shape).astype(tensor.dtype)
    return feeds
