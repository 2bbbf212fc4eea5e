# mypy: allow-untyped-defs, allow-untyped-calls
# ruff: noqa: D103
"""ai.onnx.ml: linear models and preprocessing as formulas in standard operators."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from caveat_worker.engine.autodiff.builder import op
from caveat_worker.engine.autodiff.rules.table import UnsupportedOperator, lowered, undifferentiable

ML = "ai.onnx.ml"
FLOAT = int(ir.DataType.FLOAT)


@lowered("Scaler", domain=ML)
def scaler(x, *, offset, scale):
    return (floats(x) - numbers(offset)) * numbers(scale)


@lowered("Normalizer", domain=ML)
def normalizer(x, *, norm):
    """Rows of norm 1; a row of zeros, such as a text without a known word, stays as it is."""
    x = floats(x)
    norms = {"MAX": op.ReduceMax, "L1": op.ReduceL1, "L2": op.ReduceL2}
    size = norms[norm](x, [-1])
    return x / op.Where(op.Equal(size, 0.0), 1.0, size)


@lowered("Imputer", domain=ML)
def imputer(
    x, *, imputed_value_floats=None, imputed_value_int64s=None, replaced_value_float=0.0, replaced_value_int64=0
):
    if imputed_value_floats is None:
        raise UnsupportedOperator("it fills in integers")
    hole = op.IsNaN(x) if np.isnan(replaced_value_float) else op.Equal(x, replaced_value_float)
    return op.Where(hole, numbers(imputed_value_floats), x)


@lowered("LinearRegressor", domain=ML)
def linear_regressor(x, *, coefficients, intercepts=None, post_transform, targets):
    return _after(_linear(x, coefficients, intercepts, targets), post_transform)


@lowered("LinearClassifier", domain=ML)
def linear_classifier(x, *, classlabels_ints=None, classlabels_strings=None, coefficients, intercepts=None,
                      multi_class, post_transform):  # fmt: skip
    """The scores, two of them where the operator has one score for two classes; the operator still yields the label."""
    classes = len(classlabels_ints or classlabels_strings or ())
    rows = len(intercepts) if intercepts else classes
    z = _linear(x, coefficients, intercepts, rows)
    if rows == classes:
        return None, _after(z, post_transform)
    if (rows, classes) == (1, 2) and post_transform in ("LOGISTIC", "NONE"):
        return None, of_two(z, squashed=post_transform == "LOGISTIC")
    raise UnsupportedOperator(f"it makes {classes} classes of {rows} scores with {post_transform}")


@lowered("FeatureVectorizer", domain=ML)
def feature_vectorizer(*xs, inputdimensions=None):
    return op.Concat(*(floats(x) for x in xs), axis=1)


@lowered("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(x, indices):
    places = indices if indices.array is not None else op.Cast(indices, to=int(ir.DataType.INT64))  # of an unknown type
    return op.Gather(x, op.Reshape(places, [-1]), axis=-1)


undifferentiable("its output is a class, a text or an index", ["CategoryMapper", "LabelEncoder", "OneHotEncoder"], ML)
undifferentiable(
    "its output is piecewise constant",
    ["Binarizer", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"],
    ML,
)


def of_two(z, *, squashed):
    """What two classes have of one score [n, 1]: it and its negative, or their sigmoids."""
    if not squashed:
        return op.Concat(-z, z, axis=1)
    p = op.Sigmoid(z)
    return op.Concat(1 - p, p, axis=1)


def floats(x):
    return x if x.dtype == ir.DataType.FLOAT else op.Cast(x, to=FLOAT)


def numbers(values):
    return np.asarray(values, np.float32)


def _linear(x, coefficients, intercepts, rows):
    weights = numbers(coefficients).reshape(rows, -1)
    bias = numbers(intercepts if intercepts else [0.0] * rows)
    return op.Gemm(floats(x), weights, bias, transB=1)


def _after(z, post_transform):
    match post_transform:
        case "NONE":
            return z
        case "SOFTMAX":
            return op.Softmax(z, axis=-1)
        case "LOGISTIC":
            return op.Sigmoid(z)
    raise UnsupportedOperator(f"its post_transform is {post_transform}")
