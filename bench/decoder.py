"""A causal language model in float16 whose weights are in a file beside it, as exporters of large models write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, checker, helper, numpy_helper

OPSET = 18
PAGE = 4096
"""Bytes at whose multiples a weight begins in the data file, so that it can be mapped."""
_SMALL = 1024  # bytes: as other exporters, smaller constants are kept in the model's own file


def write_decoder(path: Path, *, blocks: int, width: int, words: int, head: int = 128, seed: int = 0) -> int:
    """Writes a decoder of `blocks` blocks with random weights, and returns the bytes of its weights.

    `input_ids` [batch, sequence] of int64 become `logits` [batch, sequence, words] of float16; `path.data` has the
    weights. A block is causal attention and two dense layers, each behind a root mean square normalisation that is
    computed in float32 (Zhang and Sennrich 2019), as exports of decoders have it.
    """
    with path.with_name(f"{path.name}.data").open("wb") as data:
        net = _Decoder(data, path.name, np.random.default_rng(seed), width, head)
        logits = net.written(blocks, words)
    graph = helper.make_graph(
        net.nodes,
        "decoder",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info(logits, TensorProto.FLOAT16, ["batch", "sequence", words])],
        net.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    checker.check_model(str(path))
    return net.size


class _Decoder:
    """The nodes so far; weights go to the data file as they are made."""

    def __init__(self, data: Any, name: str, rng: np.random.Generator, width: int, head: int) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.size = 0
        self._data, self._location, self._rng = data, f"{name}.data", rng
        self._width, self._head = width, head

    def written(self, blocks: int, words: int) -> str:
        """Writes the whole network; returns the name of its output."""
        width = self._width
        shape = self.node("Shape", ["input_ids"], "ids.shape")
        length = self.node("Gather", [shape, self.constant("one", np.array([1]))], "length")
        square = self.node("Concat", [length, length], "square", axis=0)
        one = numpy_helper.from_array(np.ones(1, np.int32))
        lower = self.node("Trilu", [self.node("ConstantOfShape", [square], "ones", value=one)], "lower", upper=0)
        seen = self.node("Cast", [lower], "seen", to=TensorProto.BOOL)
        x = self.node("Gather", [self._normal("words", (words, width), 1.0), "input_ids"], "tokens")
        for number in range(1, blocks + 1):
            x = self._block(x, seen, f"block{number}")
        x = self._normalised(x, "last")
        return self.node("MatMul", [x, self._normal("head", (width, words), width**-0.5)], "logits")

    def _block(self, x: str, seen: str, name: str) -> str:
        width, head = self._width, self._head
        normal = self._normalised(x, f"{name}.before")
        split = self.constant("split", np.array([0, 0, width // head, head]))
        heads = []
        for one, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            whole = self._dense(normal, width, width, f"{name}.{one}")
            parts = self.node("Reshape", [whole, split], f"{name}.{one}.split")
            heads.append(self.node("Transpose", [parts], f"{name}.{one}.heads", perm=order))
        scale = self.constant("scale", np.float16(head**-0.5))
        scores = self.node("Mul", [self.node("MatMul", heads[:2], f"{name}.products"), scale], f"{name}.scores")
        masked = self.node("Where", [seen, scores, self.constant("never", np.float16(-65504))], f"{name}.masked")
        attention = self.node("Softmax", [masked], f"{name}.attention", axis=-1)
        mixed = self.node("MatMul", [attention, heads[2]], f"{name}.mixed")
        turned = self.node("Transpose", [mixed], f"{name}.turned", perm=[0, 2, 1, 3])
        joined = self.node("Reshape", [turned, self.constant("join", np.array([0, 0, width]))], f"{name}.joined")
        x = self.node("Add", [x, self._dense(joined, width, width, f"{name}.out", 0.2)], f"{name}.attended")
        wide = self._dense(self._normalised(x, f"{name}.between"), width, 4 * width, f"{name}.wide")
        active = self.node("Mul", [wide, self.node("Sigmoid", [wide], f"{name}.gate")], f"{name}.active")
        return self.node("Add", [x, self._dense(active, 4 * width, width, f"{name}.narrow", 0.2)], name)

    def _normalised(self, x: str, name: str) -> str:
        """x over its root mean square, in float32."""
        wide = self.node("Cast", [x], f"{name}.float", to=TensorProto.FLOAT)
        squares = self.node("Mul", [wide, wide], f"{name}.squares")
        mean = self.node("ReduceMean", [squares, self.constant("last.axis", np.array([-1]))], f"{name}.mean")
        above = self.node("Add", [mean, self.constant("tiny", np.float32(1e-5))], f"{name}.above")
        over = self.node("Div", [wide, self.node("Sqrt", [above], f"{name}.root")], f"{name}.over")
        narrow = self.node("Cast", [over], f"{name}.half", to=TensorProto.FLOAT16)
        ones = self._weight(f"{name}.weight", np.ones(self._width, np.float16))
        return self.node("Mul", [narrow, ones], f"{name}.normal")

    def _dense(self, x: str, features: int, outputs: int, name: str, gain: float = 1.0) -> str:
        weight = self._normal(f"{name}.weight", (features, outputs), gain * features**-0.5)
        return self.node("MatMul", [x, weight], name)

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Appends an operator with one output; returns the output's name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """A small constant, kept once under its name."""
        if all(one.name != name for one in self.weights):
            self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _normal(self, name: str, shape: tuple[int, int], deviation: float) -> str:
        values = self._rng.standard_normal(shape, np.float32)
        values *= np.float32(deviation)
        return self._weight(name, values.astype(np.float16))

    def _weight(self, name: str, values: NDArray[np.float16]) -> str:
        """Appends a weight to the data file, at a page of its own."""
        if values.nbytes <= _SMALL:
            return self.constant(name, values)
        self._data.seek(-(-self._data.tell() // PAGE) * PAGE)
        tensor = TensorProto(name=name, dims=values.shape, data_type=TensorProto.FLOAT16)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._location), ("offset", self._data.tell()), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        values.tofile(self._data)
        self.size += values.nbytes
        self.weights.append(tensor)
        return name
