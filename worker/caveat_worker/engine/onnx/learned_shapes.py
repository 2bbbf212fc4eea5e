"""Types and shapes that onnx's inference leaves open: of trees, SVMs, linear models, words, roundings and attention."""

from __future__ import annotations

import onnx_ir as ir

DOMAIN = "ai.onnx.ml"
_CLASSIFIERS = {"LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier"}
_REGRESSORS = {
    "LinearRegressor": "targets",
    "SVMRegressor": "",
    "TreeEnsemble": "n_targets",
    "TreeEnsembleRegressor": "n_targets",
}
"""Operator → the attribute that counts its numbers; an SVM has one."""
MICROSOFT = "com.microsoft"
_ROUNDINGS = {"DequantizeLinear": (1, ir.DataType.FLOAT), "QuantizeLinear": (2, ir.DataType.UINT8)}
"""Operator → the place of the input that has its output's type, and the type where that is unknown."""
_OF_TOKENS = 3
"""Axes of features of tokens: examples, tokens, features."""
_KEYS = {"keys_floats": ir.DataType.FLOAT, "keys_int64s": ir.DataType.INT64, "keys_strings": ir.DataType.STRING}
_LABELS = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")


def type_encoded(model: ir.Model) -> None:
    """Sets the unknown types of what categories are encoded from, in place: onnx's inference crashes without them."""
    for node in model.graph.all_nodes():
        value = node.inputs[0] if node.domain == DOMAIN and node.op_type == "LabelEncoder" and node.inputs else None
        if value is not None and value.dtype is None:
            keys = node.attributes.get("keys_tensor")
            listed = [kind for name, kind in _KEYS.items() if name in node.attributes]
            kinds = listed if keys is None else [keys.as_tensor().dtype]
            value.type = ir.TensorType(kinds[0]) if kinds else None


def shape_learned(model: ir.Model) -> bool:
    """Sets the types and shapes of these operators' outputs where they are unknown, in place; whether any was."""
    return sum(_shape_outputs(node) for node in model.graph if node.domain in (DOMAIN, MICROSOFT)) > 0


def _shape_outputs(node: ir.Node) -> bool:
    batch = node.inputs[0].shape[0] if node.inputs and node.inputs[0] is not None and node.inputs[0].shape else None
    if node.op_type in _CLASSIFIERS and len(node.outputs) == 2:
        of_text = "classlabels_strings" in node.attributes
        label, scores = node.outputs
        labelled = _set(label, ir.DataType.STRING if of_text else ir.DataType.INT64, [batch])
        return _set(scores, ir.DataType.FLOAT, [batch, _scores(node)]) or labelled
    if node.op_type in _REGRESSORS:
        counted = node.attributes.get(_REGRESSORS[node.op_type])
        double = node.op_type == "TreeEnsemble" and node.inputs[0] is not None and node.inputs[0].dtype
        return _set(node.outputs[0], double or ir.DataType.FLOAT, [batch, counted.as_int() if counted else 1])
    shape = None if node.domain != MICROSOFT or node.inputs[0] is None else node.inputs[0].shape
    if node.op_type == "Tokenizer" and shape is not None:
        return _set(node.outputs[0], ir.DataType.STRING, [*shape, None])
    if node.op_type == "DynamicQuantizeLSTM" and shape is not None:
        state = [1 + (node.attributes.get_string("direction", "") == "bidirectional"), shape[1], _hidden(node)]
        sizes = [[shape[0], *state], state, state]
        return sum(_set(one, ir.DataType.FLOAT, size) for one, size in zip(node.outputs, sizes, strict=False)) > 0
    query = node.inputs[0] if node.inputs else None
    if node.op_type == "GroupQueryAttention" and query is not None and shape is not None and len(shape) == _OF_TOKENS:
        return _set(node.outputs[0], query.dtype or ir.DataType.FLOAT, [*shape[:2], _mixed(node, shape[2])])
    if node.domain == MICROSOFT and node.op_type in _ROUNDINGS:
        place, otherwise = _ROUNDINGS[node.op_type]
        like, output = node.inputs[place] if len(node.inputs) > place else None, node.outputs[0]
        dtype = output.dtype or (like.dtype if like is not None else None) or otherwise
        output.dtype = dtype  # also where the shape is unknown
        return shape is not None and _set(output, dtype, [*shape])
    return False


def _mixed(node: ir.Node, width: int | ir.SymbolicDim) -> int | ir.SymbolicDim | None:
    """How many features all heads have together: those of the queries, which keys and values may be packed with."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        return width
    heads, keys = node.attributes.get_int("num_heads", 1), node.attributes.get_int("kv_num_heads", 1)
    return width * heads // (heads + 2 * keys) if isinstance(width, int) else None


def _hidden(node: ir.Node) -> int | None:
    """How many states a cell has."""
    size = node.attributes.get("hidden_size")
    return None if size is None else size.as_int()


def _scores(node: ir.Node) -> int | None:
    """How many scores an example gets; an SVM without probabilities has one for each pair of classes."""
    if node.op_type == "SVMClassifier" and "prob_a" not in node.attributes:
        return None
    return next((len(node.attributes[name].value) for name in _LABELS if name in node.attributes), None)


def _set(value: ir.Value, dtype: ir.DataType, shape: list[int | ir.SymbolicDim | None]) -> bool:
    known = value.dtype is not None and value.shape is not None
    value.dtype = value.dtype or dtype
    value.shape = value.shape or ir.Shape(shape)
    return not known
