"""Every operator of the table has a row, and every row agrees with finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caveat_worker.engine.autodiff.rules import DEFINED, LOWERED, VJP
from tests.engine.oracles import (
    Array,
    NotDifferentiated,
    Row,
    Shapes,
    check_against_differences,
    check_formula,
    check_in_onnxruntime,
)

_rng = np.random.default_rng(20)


def real(*shape: int) -> Array:
    """Standard normal, off the kinks at 0, ±0.5, ±1 and ±3."""
    x = _rng.standard_normal(shape)
    for kink in (0, 0.5, -0.5, 1, -1, 3, -3):
        x = np.where(np.abs(x - kink) < 0.02, x + 0.05, x)
    return x


def positive(*shape: int) -> Array:
    return np.abs(real(*shape)) + 0.3


def unit(*shape: int) -> Array:
    return np.tanh(real(*shape)) * 0.9


def above_one(*shape: int) -> Array:
    return positive(*shape) + 1


def ints(*values: Any) -> Array:
    return np.asarray(values[0] if len(values) == 1 else values, np.int64)


def scalar(value: float) -> Array:
    return np.asarray(value, np.float64)


def row(op: str, *inputs: Array | None, **options: Any) -> Row:
    fields = {k: options.pop(k) for k in list(options) if k in Row.__dataclass_fields__}
    return Row(op, inputs, options, **fields)


ONE_NUMBER = [
    *(
        row(op, real(3, 4))
        for op in ["Abs", "Atan", "Asinh", "Celu", "Cos", "Cosh", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSwish"]
    ),
    *(row(op, real(3, 4)) for op in ["Identity", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid"]),
    *(row(op, real(3, 4)) for op in ["Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu"]),
    row("Erf", real(3, 4)),
    row("Gelu", real(3, 4), approximate="tanh"),
    row("Swish", real(3, 4), opset=24, alpha=1.5),
    row("Swish", real(3, 4), opset=24),
    row("LeakyRelu", real(3, 4), alpha=0.3),
    row("ThresholdedRelu", real(3, 4), alpha=0.7),
    row("Elu", real(3, 4), alpha=0.3),
    row("Celu", real(3, 4), alpha=0.6),
    row("Selu", real(3, 4), alpha=1.2, gamma=0.8),
    row("HardSigmoid", real(3, 4), alpha=0.3, beta=0.6),
    row("Shrink", real(3, 4), lambd=0.6, bias=0.2),
    row("PRelu", real(2, 3, 4), real(3, 1)),
    *(row(op, unit(3, 4)) for op in ("Acos", "Asin", "Atanh")),
    *(row(op, positive(3, 4)) for op in ("Log", "Sqrt")),
    row("Acosh", above_one(3, 4)),
    row("Clip", real(3, 4), scalar(-0.7), scalar(0.8)),
    row("Clip", real(3, 4), None, scalar(0.8)),
    row("Clip", real(3, 4), scalar(-0.7), through=(0,)),
    row("Dropout", real(3, 4)),
    row("Dropout", real(3, 4), scalar(0.5), np.asarray(False), through=(0,)),
    row("Cast", real(3, 4), to=11, compare=False),
    row("CastLike", real(3, 4), scalar(1.0), through=(0,)),
]

ARITHMETIC = [
    *(row(op, real(2, 3, 4), real(2, 3, 4)) for op in ("Add", "Sub", "Mul", "Min", "Max", "Sum", "Mean")),
    *(row(op, real(2, 3, 4), real(3, 1)) for op in ("Add", "Sub", "Mul", "Min", "Max", "Sum", "Mean")),
    *(row(op, real(4), real(3, 1, 1), real(2, 4)) for op in ("Min", "Max", "Sum", "Mean")),
    row("Div", real(2, 3), positive(2, 3)),
    row("Div", real(1, 3), positive(2, 1, 3)),
    row("Pow", positive(2, 3), real(2, 3)),
    row("Pow", positive(2, 1), real(3)),
    row("Pow", real(2, 3), ints(3)),
    row("Pow", real(2, 3), scalar(2), through=(0,)),
    row("Pow", positive(2, 3), np.asarray([0.5]), through=(0,)),
    row("Mod", real(2, 3) * 5, positive(2, 3), fmod=1, tolerance=1e-5),
    row("Where", np.asarray([[True], [False]]), real(2, 3), real(3)),
    row("Where", np.asarray([True, False, True]), real(1), real(2, 1)),
]

PRODUCTS = [
    row("AffineGrid", real(2, 2, 3), ints([2, 1, 4, 5]), dtype="float32"),
    row("AffineGrid", real(2, 3, 4), ints([2, 1, 2, 4, 5]), align_corners=1, dtype="float32"),
    row("MatMul", real(3, 4), real(4, 5)),
    row("MatMul", real(2, 3, 4), real(4, 5)),
    row("MatMul", real(2, 3, 4), real(4, 5), through=(0,)),
    row("MatMul", real(2, 3, 4), real(2, 4, 5)),
    row("MatMul", real(2, 1, 3, 4), real(5, 4, 2)),
    row("MatMul", real(3, 4), real(2, 4, 5)),
    row("MatMul", real(4), real(4, 5)),
    row("MatMul", real(3, 4), real(4)),
    row("MatMul", real(2, 3, 4), real(4)),
    row("MatMul", real(4), real(2, 4, 3)),
    row("MatMul", real(4), real(4)),
    row("MatMul", real(2, 3, 1), real(1, 1)),
    *(
        row("Gemm", real(3, 4).T if a else real(3, 4), real(4, 5).T if b else real(4, 5), real(5), transA=a, transB=b,
            alpha=0.5, beta=2.0)
        for a in (0, 1) for b in (0, 1)
    ),
    row("Gemm", real(3, 4), real(4, 5), real(3, 1)),
    row("Gemm", real(3, 4), real(4, 5)),
    row("Einsum", real(2, 3, 4), real(2, 4, 5), equation="bij,bjk->bik"),
    row("Einsum", real(2, 3, 4), equation="bij->bj"),
    row("Einsum", real(2, 3, 3), equation="bii->bi", shapes=("static", "batch")),
    row("Einsum", real(3, 3), real(3, 4), equation="ii,ij->j", shapes=("static",)),
    row("Einsum", real(3, 4), real(4), equation="ij,j"),
    row("Einsum", real(3, 4), real(4, 2), real(2, 5), equation="ij,jk,kl->il"),
    row("Einsum", real(2, 3, 4), real(2, 3, 4), equation="...ij,...ij->...i"),
    row("Einsum", real(2, 3, 4), equation="bij->bji"),
]  # fmt: skip

IMAGE = real(2, 4, 7, 6)
CONVOLUTIONS = [
    row("Conv", IMAGE, real(6, 4, 3, 3), real(6)),
    row("Conv", IMAGE, real(6, 4, 3, 3), real(6), through=(0,)),
    row("Conv", IMAGE, real(6, 4, 3, 3), through=(0,), pads=[0, 1, 2, 1]),
    row("Conv", IMAGE, real(6, 2, 3, 2), group=2, strides=[2, 1], pads=[1, 0, 0, 1]),
    row("Conv", IMAGE, real(6, 4, 3, 3), strides=[3, 2], pads=[1, 1, 1, 1], through=(0,)),
    row("Conv", IMAGE, real(6, 4, 2, 3), strides=[2, 2], dilations=[2, 1], pads=[1, 2, 0, 1]),
    row("Conv", IMAGE, real(6, 4, 3, 3), auto_pad="SAME_UPPER", through=(0,)),
    row("Conv", IMAGE, real(6, 4, 2, 2), auto_pad="SAME_LOWER", strides=[2, 3], through=(0,),
        shapes=("static", "batch")),
    row("Conv", IMAGE, real(6, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2], through=(0,),
        shapes=("static", "batch")),
    row("Conv", IMAGE, real(6, 4, 3, 3), auto_pad="VALID", through=(0,)),
    row("Conv", real(2, 4, 9), real(3, 4, 3), real(3), strides=[2], pads=[2, 1]),
    row("Conv", real(1, 2, 4, 5, 3), real(3, 2, 2, 3, 2), pads=[1, 0, 1, 0, 1, 1], strides=[2, 1, 1]),
    row("Conv", IMAGE, real(4, 4, 1, 1), strides=[2, 2], through=(0,)),
    row("Conv", IMAGE, real(4, 4, 2, 2), pads=[2, 3, 2, 3], through=(0,)),
    row("ConvTranspose", real(2, 4, 4, 5), real(4, 3, 3, 3), real(3), strides=[2, 2], pads=[1, 0, 1, 1]),
    row("ConvTranspose", real(2, 4, 4, 5), real(4, 3, 3, 3), strides=[2, 3], output_padding=[1, 2]),
    row("ConvTranspose", real(2, 4, 4, 5), real(4, 3, 3, 3), strides=[1, 2], dilations=[2, 1]),
    row("ConvTranspose", real(2, 4, 4, 5), real(4, 3, 3, 3), strides=[2, 2], output_shape=[8, 10],
        shapes=("static", "batch")),
    row("ConvTranspose", real(2, 4, 4, 5), real(4, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER",
        shapes=("static", "batch")),
]  # fmt: skip

POOLINGS = [
    row("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    row("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[1, 2]),
    row("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[1, 2], storage_order=1),
    row("MaxPool", real(2, 3, 9), kernel_shape=[3], strides=[2]),
    row("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    row("AveragePool", IMAGE, kernel_shape=[3, 2]),
    row("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1], shapes=("static", "batch")),
    row("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1], count_include_pad=1),
    row("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    row("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    row("AveragePool", IMAGE, kernel_shape=[2, 2], dilations=[2, 1]),
    row("LpPool", IMAGE, kernel_shape=[2, 3], strides=[2, 1], p=2),
    row("LpPool", IMAGE, kernel_shape=[2, 3], strides=[2, 1], p=3),
    row("LpPool", IMAGE, kernel_shape=[2, 2], p=1),
    row("GlobalAveragePool", IMAGE),
    row("GlobalMaxPool", IMAGE),
    row("GlobalLpPool", IMAGE, p=2, opset=18),  # ONNX Runtime has none of opset 22
    row("GlobalLpPool", IMAGE, p=3, opset=18),
    row("MaxUnpool", real(1, 1, 2, 2), ints([[[[5, 7], [13, 15]]]]), kernel_shape=[2, 2], strides=[2, 2]),
]

NORMALISATIONS = [
    row("BatchNormalization", IMAGE, real(4), real(4), real(4), positive(4), through=(0, 1, 2, 3)),
    row("BatchNormalization", real(3, 5), real(5), real(5), real(5), positive(5), through=(0,), epsilon=0.01),
    row("InstanceNormalization", IMAGE, real(4), real(4)),
    row("LayerNormalization", real(2, 3, 5), real(5), real(5)),
    row("LayerNormalization", real(2, 3, 5), real(3, 5), axis=1, epsilon=1e-2),
    row("RMSNormalization", real(2, 3, 5), real(5), opset=23),
    row("GroupNormalization", IMAGE, real(4), real(4), num_groups=2, stash_type=11, compare=False),
    row("GroupNormalization", IMAGE, real(4), real(4), num_groups=2, tolerance=1.0),  # for ONNX Runtime
    row("MeanVarianceNormalization", IMAGE, axes=[2, 3]),
    row("MeanVarianceNormalization", IMAGE, axes=[1, 2, 3]),
    row("LpNormalization", real(2, 3, 5), axis=1, p=2),
    row("LpNormalization", real(2, 3, 5), axis=-1, p=1),
    row("LRN", real(2, 6, 4, 4), size=3, alpha=0.2, beta=0.6, bias=1.5),
    row("LRN", real(2, 6, 4, 4), size=4, alpha=0.2, compare=False),  # ONNX Runtime wants an odd size
]

REDUCTIONS = [
    row(op, positive(2, 3, 4), axes, **options)
    for op in [
        "ReduceSum",
        "ReduceMean",
        "ReduceSumSquare",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
        "ReduceProd",
        "ReduceMax",
        "ReduceMin",
    ]
    for axes, options in (
        (ints([1]), {"keepdims": 0}),
        (ints([-1, 0]), {}),
        (None, {"keepdims": 0}),
        (ints([]), {"noop_with_empty_axes": 0}),
    )
] + [
    row("ReduceSum", real(2, 3), ints([]), noop_with_empty_axes=1),
    row("ReduceProd", np.asarray([[0.0, 2, 3], [1, 2, 3], [0, 0, 3]]), ints([1])),
    row("Softmax", real(2, 3, 4)),
    row("Softmax", real(2, 3, 4), axis=1),
    row("LogSoftmax", real(2, 3, 4)),
    row("LogSoftmax", real(2, 3, 4), axis=0),
    row("CumSum", real(3, 4), ints(1)),
    row("CumSum", real(3, 4), ints(0), exclusive=1, reverse=1),
    row("CumProd", positive(3, 4), ints(1), opset=26, compare=False),
    row("Trilu", real(3, 4)),
    row("Trilu", real(2, 4, 4), ints(1), upper=0),
    row("TopK", real(3, 6), ints([2]), outputs=2),
    row("TopK", real(3, 6), ints([2]), outputs=2, axis=0, largest=0),
]

SHAPES = [
    row("Reshape", real(2, 3, 4), ints([4, 6])),
    row("Reshape", real(2, 3, 4), ints([0, -1])),
    row("Flatten", real(2, 3, 4)),
    row("Squeeze", real(2, 1, 4), ints([1])),
    row("Squeeze", real(2, 1, 4), shapes=("static",)),
    row("Unsqueeze", real(2, 3), ints([0, -1])),
    row("Transpose", real(2, 3, 4), perm=[1, 2, 0]),
    row("Transpose", real(2, 3, 4)),
    row("Expand", real(3, 1), ints([2, 3, 4])),
    row("Tile", real(2, 3), ints([2, 3])),
    row("Concat", real(2, 3), real(2, 1), real(2, 2), axis=1),
    row("Concat", real(2, 3), axis=0),
    row("Split", real(6, 2), ints([1, 2, 3]), outputs=3),
    row("Split", real(2, 6), outputs=2, axis=-1, num_outputs=2),
    row("Slice", real(5, 6), ints([1]), ints([4])),
    row("Slice", real(5, 6), ints([-2, 0]), ints([-9, 99]), ints([0, 1]), ints([-1, 2])),
    row("Slice", real(5, 6), ints([1, 2]), ints([-1, 5]), ints([1, 0])),
    row("Gather", real(5, 3), ints(2)),
    row("Gather", real(5, 3), ints(-1), axis=1),
    row("Gather", real(5, 3), ints([[0, 2], [2, -1]])),
    row("Gather", real(4, 5), ints([[0, 2], [2, -1]]), axis=1),
    row("Gather", real(4, 5), ints([3, 1]), axis=1),
    row("GatherElements", real(3, 4), ints([[0, 0, 2, 1], [1, 2, 0, 0]]), axis=0),
    row("GatherND", real(3, 4, 2), ints([[0, 1], [2, 3], [0, 1]])),
    row("GatherND", real(2, 3, 4), ints([[1], [2]]), batch_dims=1),
    row("Gather", real(4, 3), np.asarray([0, 2, 2, -1], np.int32)),
    row("Slice", real(4, 3), *(np.asarray([n], np.int32) for n in (1, 3, 1))),
    row("ScatterElements", real(3, 4), ints([[1, 0, 2, 0]]), real(1, 4)),
    row("ScatterElements", real(1, 4), ints([[1, 1, 3]]), real(1, 3), axis=1, reduction="add"),
    row("ScatterND", real(4, 3), ints([[1], [3]]), real(2, 3)),
    row("ScatterND", real(4, 3), ints([[1], [1]]), real(2, 3), reduction="add"),
    *(row("ScatterND", real(4, 3), ints([[1], [3], [1]]), real(3, 3), reduction=r) for r in ("mul", "max", "min")),
    *(row("ScatterElements", real(3, 4), ints([[1, 0, 2, 0]]), real(1, 4), reduction=r) for r in ("mul", "max", "min")),
    row("Compress", real(3, 4), np.asarray([True, False, True]), axis=0),
    row("Compress", real(3, 4), np.asarray([False, True, True, False, True])),
    row("OneHot", ints([1, 0, 2]), ints(3), real(2), shapes=("static",)),
    row("Pad", real(3, 4), ints([1, 0, 2, 1]), scalar(0.5), through=(0,)),
    row("Pad", real(3, 4), ints([1, 2]), None, ints([1])),
    row("Pad", real(3, 4), ints([-1, 1, 0, 0])),
    row("Pad", real(3, 4), ints([1, 0, 2, 3]), mode="reflect"),
    row("Pad", real(3, 4), ints([1, 0, 2, 3]), mode="edge"),
    row("Pad", real(3, 4), ints([1, 0, 2, 3]), mode="wrap"),
    row("DepthToSpace", real(2, 8, 2, 3), blocksize=2),
    row("DepthToSpace", real(2, 8, 2, 3), blocksize=2, mode="CRD"),
    row("SpaceToDepth", real(2, 2, 4, 6), blocksize=2),
    row("ReverseSequence", real(4, 3), ints([1, 2, 4]), batch_axis=1, time_axis=0),
    *(
        row("Resize", real(1, 2, 4, 5), None, np.asarray([1, 1, 2, 1.5], np.float32), mode=mode,
            coordinate_transformation_mode=how, through=(0,), compare=how != "align_corners")
        for mode in ("nearest", "linear", "cubic") for how in ("half_pixel", "asymmetric", "align_corners")
    ),
    # the two runtimes place the last sample of align_corners differently where the scale is not whole
    row("Resize", real(1, 2, 4, 5), None, None, ints([1, 2, 3, 9]), mode="linear"),
    row("Resize", real(1, 2, 4, 6), None, None, ints([2, 3]), mode="linear", axes=[2, 3]),
    *(
        row("Resize", real(1, 2, 2, 4), None, None, ints(sizes), mode="linear", axes=[2, 3], opset=19,
            keep_aspect_ratio_policy=policy, shapes=("static", "batch"))
        for policy, sizes in (("not_larger", [1, 3]), ("not_smaller", [3, 8]))
    ),
    row("Resize", real(1, 2, 4, 6), np.asarray([0, 0, 0.2, 0.1, 1, 1, 0.8, 0.9], np.float32), None, ints([1, 2, 3, 4]),
        mode="linear", coordinate_transformation_mode="tf_crop_and_resize", through=(0,)),
]  # fmt: skip

X = real(4, 2, 3)
RECURRENT = [  # ONNX Runtime has none of opset 22
    *(
        row(cell, X, *(real(d, k, 5) if i else real(d, k, 3) for i in (0, 1)), real(d, 2 * k), None, real(d, 2, 5),
            *([real(d, 2, 5)] if cell == "LSTM" else []), hidden_size=5, direction=direction, through=through,
            outputs=3 if cell == "LSTM" else 2, opset=18, **more)
        for cell, k, states, more in (
            ("RNN", 5, (5,), {}), ("GRU", 15, (5,), {"linear_before_reset": 1}), ("GRU", 15, (5,), {}),
            ("LSTM", 20, (5, 6), {}),
        )
        for direction, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2))
        for through in ((0, *states),)
    ),
    row("LSTM", X, real(1, 20, 3), real(1, 20, 5), hidden_size=5, through=(0,), opset=18),
    row("GRU", X, real(1, 15, 3), real(1, 15, 5), hidden_size=5, through=(0,), opset=18),
    row("RNN", X, real(1, 5, 3), real(1, 5, 5), hidden_size=5, through=(0,), opset=18, activations=["Relu"]),
]  # fmt: skip


def learned(op: str, *inputs: Array | None, **options: Any) -> Row:
    return row(op, *inputs, domain="ai.onnx.ml", dtype="float32", **options)


def fused(op: str, *inputs: Array | None, **options: Any) -> Row:
    return row(op, *inputs, domain="com.microsoft", opset=18, **options)


def grouped(q: Array, k: Array | None, v: Array | None, *others: Array | None, **options: Any) -> Row:
    """Queries, keys and values of two texts of three tokens, the caches before them, and tables of angles."""
    past, tables = (*others[:2], None, None)[:2], others[2:]
    through = tuple(place for place, one in enumerate((q, k, v)) if one is not None)
    lengths = np.int32([2, 2]), np.int32(3)
    return fused("GroupQueryAttention", q, k, v, *past, *lengths, *tables, through=through, outputs=3,
                 shapes=("static", "batch"), **options)  # fmt: skip


SAMPLES, TOKENS = real(3, 4), real(2, 3, 4)
WEIGHTS = real(2, 4).ravel().tolist()
FORMULAS = [
    learned("Scaler", SAMPLES, offset=[0.5, 1.0, -1.0, 0.0], scale=[2.0, 1.0, 0.5, 3.0]),
    learned("Scaler", SAMPLES, offset=[0.5], scale=[2.0]),
    *(learned("Normalizer", SAMPLES, norm=norm) for norm in ("L1", "L2")),
    learned("Normalizer", positive(3, 4), norm="MAX"),
    learned("Imputer", np.asarray([[1.0, np.nan], [np.nan, 2.0]]), imputed_value_floats=[0.5, 0.25],
            replaced_value_float=float("nan"),
            through=(0,)),
    learned("LinearRegressor", SAMPLES, coefficients=WEIGHTS, intercepts=[0.1, 0.2], targets=2),
    learned("LinearRegressor", SAMPLES, coefficients=WEIGHTS, targets=2, post_transform="SOFTMAX"),
    *(
        learned("LinearClassifier", SAMPLES, coefficients=WEIGHTS, intercepts=[0.1, 0.2], classlabels_ints=[0, 1],
                post_transform=after, outputs=2)
        for after in ("NONE", "SOFTMAX", "LOGISTIC")
    ),
    learned("LinearClassifier", SAMPLES, coefficients=WEIGHTS[:4], intercepts=[0.1], classlabels_ints=[0, 1],
            post_transform="LOGISTIC", outputs=2),
    *(
        learned("SVMRegressor", SAMPLES, coefficients=[0.5, -0.3, 0.2], support_vectors=real(12).tolist(), n_supports=3,
                kernel_type=kind, kernel_params=[0.3, 0.1, 2.0], rho=[0.1])
        for kind in ("LINEAR", "POLY", "RBF", "SIGMOID")
    ),
    learned("SVMClassifier", SAMPLES, coefficients=[0.5, -0.3, -0.2], support_vectors=real(12).tolist(),
            vectors_per_class=[1, 2], kernel_type="RBF", kernel_params=[0.3, 0.1, 2.0], rho=[0.1],
            classlabels_ints=[0, 1], outputs=2),
    learned("SVMClassifier", SAMPLES, coefficients=real(8).tolist(), support_vectors=real(16).tolist(),
            vectors_per_class=[1, 2, 1], kernel_type="SIGMOID", kernel_params=[0.3, 0.1, 2.0], rho=[0.1, 0.2, 0.3],
            classlabels_ints=[0, 1, 2], outputs=2),
    learned("FeatureVectorizer", SAMPLES, real(3, 2), inputdimensions=[4, 2]),
    learned("ArrayFeatureExtractor", SAMPLES, ints([[2, 0]])),
    fused("Gelu", SAMPLES),
    fused("BiasGelu", SAMPLES, real(4)),
    fused("FastGelu", SAMPLES, real(4)),
    fused("FastGelu", SAMPLES),
    fused("QuickGelu", SAMPLES, alpha=1.5),
    fused("FusedConv", IMAGE, real(3, 4, 3, 3), real(3), pads=[1, 1, 1, 1], activation="Relu", through=(0,)),
    fused("FusedConv", IMAGE, real(3, 4, 3, 3), real(3), activation="Clip",
          activation_params=[-0.5, 6.0], through=(0,)),
    fused("FusedGemm", SAMPLES, real(5, 4), real(5), transB=1, activation="LeakyRelu", activation_alpha=0.2,
          through=(0,)),
    fused("FusedMatMul", real(2, 3, 4), real(2, 5, 4), transB=1, alpha=0.5),
    fused("SkipLayerNormalization", real(2, 3, 4), real(2, 3, 4), positive(4), real(4), real(4), epsilon=1e-5),
    fused("SkipSimplifiedLayerNormalization", real(2, 3, 4), real(2, 3, 4), positive(4)),
    row("SimplifiedLayerNormalization", real(2, 3, 4), positive(4), opset=18),
    fused("Attention", TOKENS, real(4, 24), real(24), num_heads=2, through=(0,)),
    fused("Attention", TOKENS, real(4, 20), real(20), num_heads=2, qkv_hidden_sizes=[8, 8, 4], through=(0,)),
    fused("Attention", TOKENS, real(4, 24), real(24), num_heads=2, unidirectional=1, through=(0,)),
    fused("Attention", TOKENS, real(4, 24), real(24), np.int32([2, 3]), num_heads=2, through=(0,)),
    fused("Attention", TOKENS, real(4, 24), real(24), np.int32([[1, 1, 0], [0, 1, 1]]), num_heads=2, through=(0,)),
    fused("Attention", TOKENS, real(4, 24), real(24), np.int32(np.tril(np.ones((2, 3, 3)))), num_heads=2, through=(0,)),
    fused("Attention", TOKENS, real(4, 24), real(24), None, None, real(2, 2, 3, 3), num_heads=2, through=(0, 5)),
    fused("MultiHeadAttention", TOKENS, real(2, 3, 4), real(2, 3, 4), num_heads=2, shapes=("static", "batch")),
    fused("MultiHeadAttention", TOKENS, real(2, 5, 4), real(2, 5, 6), real(14), num_heads=2, scale=0.3,
          shapes=("static", "batch")),
    fused("MultiHeadAttention", TOKENS, real(2, 3, 4), real(2, 3, 4), None, np.int32([[1, 1, 0], [0, 1, 1]]),
          num_heads=2, shapes=("static", "batch")),
    fused("MultiHeadAttention", TOKENS, real(2, 3, 4), real(2, 3, 4), None, None, real(1, 2, 3, 3), num_heads=2,
          unidirectional=1, shapes=("static", "batch")),
    grouped(real(2, 3, 32), real(2, 3, 16), real(2, 3, 16), num_heads=4, kv_num_heads=2),
    grouped(real(2, 3, 64), None, None, num_heads=4, kv_num_heads=2, local_window_size=2, softcap=1.5, scale=0.2),
    grouped(real(2, 3, 64), None, None, None, None, real(6, 8), real(6, 8), num_heads=2, kv_num_heads=1, do_rotary=1),
    grouped(real(2, 3, 64), None, None, None, None, real(6, 8), real(6, 8), num_heads=2, kv_num_heads=1, do_rotary=1,
            rotary_interleaved=1),
    grouped(real(2, 3, 64), real(2, 3, 64), real(2, 3, 64), None, None, real(6, 8), real(6, 8), num_heads=2,
            kv_num_heads=2, do_rotary=1),
    grouped(real(2, 3, 16), real(2, 3, 16), real(2, 3, 16), None, None, None, None, None, real(1, 1, 3, 3), num_heads=2,
            kv_num_heads=2),
    grouped(real(2, 3, 16), real(2, 3, 8), real(2, 3, 8), np.zeros((2, 1, 0, 8)), np.zeros((2, 1, 0, 8)), num_heads=2,
            kv_num_heads=1),
    fused("RotaryEmbedding", real(2, 3, 32), ints([[2, 0, 1], [1, 2, 3]]), real(6, 8), real(6, 8), through=(0,),
          shapes=("static", "batch")),
    fused("RotaryEmbedding", real(2, 2, 3, 16), ints([[2, 0, 1], [1, 2, 3]]), real(6, 8), real(6, 8), interleaved=1,
          through=(0,), shapes=("static", "batch")),
    fused("RotaryEmbedding", real(2, 3, 32), ints([[2, 0, 1], [1, 2, 3]]), real(6, 4), real(6, 4), num_heads=2,
          rotary_embedding_dim=8, through=(0,), shapes=("static", "batch")),
    fused("EmbedLayerNormalization", np.int32([[1, 0, 2], [4, 3, 3]]), np.int32([[0, 1, 1], [1, 0, 0]]), real(5, 4),
          real(6, 4), real(2, 4), positive(4), real(4), hidden=1, through=(2, 3, 4), epsilon=1e-5),
    fused("EmbedLayerNormalization", np.int32([[1, 0, 2], [4, 3, 3]]), None, real(5, 4), real(6, 4), None, positive(4),
          real(4), np.int32([[1, 1, 0], [1, 1, 1]]), hidden=1, through=(2, 3), epsilon=1e-5),
]  # fmt: skip

HEADS = real(1, 2, 3, 4)
DEFINITIONS = [
    row("Attention", HEADS, real(1, 2, 5, 4), real(1, 2, 5, 6), opset=23),
    row("Attention", HEADS, real(1, 2, 3, 4), real(1, 2, 3, 4), opset=23, is_causal=1, scale=0.3),
    row("CenterCropPad", real(4, 5), ints([3, 2]), axes=[0, 1]),
    row("NegativeLogLikelihoodLoss", real(3, 4), ints([1, 0, 3]), reduction="mean"),
    row("RotaryEmbedding", real(1, 2, 3, 4), real(6, 2), real(6, 2), ints([[0, 1, 2]]), opset=23, through=(0,)),
    row("SoftmaxCrossEntropyLoss", real(3, 4), ints([1, 0, 3]), reduction="sum"),
    row("SwiGLU", real(3, 4), real(3, 4), opset=28, compare=False),
]

GRID = 0.55 * unit(2, 2, 3, 2)
SAMPLED = [
    *(
        row("GridSample", real(2, 3, 4, 5), grid, mode=mode, padding_mode=padding, align_corners=align, opset=opset,
            through=(0,) if mode == "nearest" else None)
        for opset, mode, grid, padding in (
            (20, "linear", GRID, "zeros"), (20, "linear", 4 * GRID, "zeros"), (20, "linear", 4 * GRID, "border"),
            (20, "nearest", 2 * GRID, "zeros"), (16, "bilinear", 2 * GRID, "border"),
        )
        for align in (0, 1)
    ),
    *(
        row("DFT", signal, *more, inverse=inverse, onesided=onesided, through=(0,))
        for signal, inverse, onesided in (
            (real(2, 6, 1), 0, 0), (real(2, 6, 1), 0, 1), (real(2, 7, 1), 0, 1), (real(2, 6, 2), 0, 0),
            (real(2, 6, 2), 1, 0),
        )
        for more in ((), (ints(4),), (ints(9),))
    ),
    row("DFT", real(2, 6, 3, 2), None, ints(1), inverse=0),
    row("DFT", real(2, 6, 3, 1), axis=1, opset=18),
    row("STFT", real(2, 20, 1), ints(3), positive(8), onesided=1, through=(0,)),
    row("STFT", real(2, 20, 1), ints(4), None, ints(7), onesided=0, through=(0,)),
]  # fmt: skip

ROWS = [
    *DEFINITIONS, *FORMULAS, *ONE_NUMBER, *ARITHMETIC, *PRODUCTS, *CONVOLUTIONS,
    *POOLINGS, *NORMALISATIONS, *RECURRENT, *REDUCTIONS, *SHAPES, *SAMPLED,
]  # fmt: skip
CASES = [(r, shapes) for r in ROWS for shapes in r.shapes]
COMPARED = [(r, shapes) for r, shapes in CASES if r.compare]
"""The cases that ONNX Runtime can run in float32."""


ROUNDING = {
    *((domain, f"{kind}Linear") for domain in ("", "com.microsoft") for kind in ("Quantize", "Dequantize")),
    *(("", kind) for kind in ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")),
    *(("com.microsoft", kind) for kind in ("DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat")),
    *(
        operator
        for operator in LOWERED
        if operator[1].startswith(("MatMulNBits", "QAttention", "QEmbed", "QGemm", "QLinear"))
    ),
}
"""Straight through, which no finite difference agrees with; `test_quantised.py` has their tests."""


def test_every_operator_has_a_row() -> None:
    assert {*VJP, *LOWERED, *(("", name) for name in DEFINED)} - ROUNDING == {r.operator for r in ROWS}


@pytest.mark.parametrize("case", FORMULAS, ids=str)
def test_a_formula_computes_what_its_operator_computes(case: Row) -> None:
    check_formula(case)


@pytest.mark.parametrize(("case", "shapes"), CASES, ids=[f"{r}-{s}" for r, s in CASES])
def test_a_rule_agrees_with_finite_differences(case: Row, shapes: Shapes) -> None:
    try:
        check_against_differences(case, shapes)
    except NotDifferentiated:
        assert shapes == "dynamic"


@pytest.mark.parametrize(("case", "shapes"), COMPARED, ids=[f"{r}-{s}" for r, s in COMPARED])
def test_a_rule_runs_in_onnxruntime_in_float32(case: Row, shapes: Shapes) -> None:
    try:
        check_in_onnxruntime(case, shapes)
    except NotDifferentiated:
        assert shapes == "dynamic"
