"""The nine architectures inside the onnx package, with seeded weights in place of constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
_SMOOTH = {"Relu": "Tanh", "MaxPool": "AveragePool"}
NAMES = sorted(path.stem.removeprefix("light_") for path in FOLDER.glob("light_*.onnx"))


def light(name: str, *, seed: int = 0, smooth: bool = False) -> bytes:
    """One of them with He-scaled noise for its weights; `smooth` makes Relu a Tanh and MaxPool an average."""
    proto = onnx.load(str(FOLDER / f"light_{name}.onnx"))
    rng = np.random.default_rng(seed)
    statistics = {x for node in proto.graph.node if node.op_type == "BatchNormalization" for x in node.input[1:]}
    variances = {node.input[4] for node in proto.graph.node if node.op_type == "BatchNormalization"}
    scales = {node.input[1] for node in proto.graph.node if node.op_type == "BatchNormalization"}
    kept = []
    for node in proto.graph.node:
        if node.op_type != "ConstantOfShape":
            if smooth and node.op_type in _SMOOTH:
                node.op_type = _SMOOTH[node.op_type]
            kept.append(node)
            continue
        shape = numpy_helper.to_array(next(t for t in proto.graph.initializer if t.name == node.input[0]))
        shape = [int(d) for d in shape]
        output = node.output[0]
        if output in variances or output in scales or "sc_w" in output:
            weights = rng.uniform(0.5, 1.5, shape)
        elif output in statistics or len(shape) < 2:
            weights = 0.1 * rng.standard_normal(shape)
        else:
            weights = rng.standard_normal(shape, np.float32) * np.sqrt(2 / max(np.prod(shape[1:]), 1))
        proto.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), output))
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    proto.ir_version = max(proto.ir_version, 4)
    return bytes(proto.SerializeToString())
