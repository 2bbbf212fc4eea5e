"""Operators through which no gradient flows, with the reasons."""

from __future__ import annotations

from caveat_worker.engine.autodiff.rules.table import undifferentiable

undifferentiable("its output is piecewise constant", ["Ceil", "Floor", "Round", "Sign", "Hardmax"])
undifferentiable(
    "its output is boolean",
    [
        "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor",
    ],
)  # fmt: skip
undifferentiable(
    "its output is an index, a size or another integer",
    [
        "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "NonMaxSuppression",
        "NonZero", "Shape", "Size",
    ],
)  # fmt: skip
undifferentiable(
    "its output does not depend on the values of its inputs",
    [
        "BlackmanWindow", "Constant", "ConstantOfShape", "EyeLike", "HammingWindow", "HannWindow", "MelWeightMatrix",
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range",
    ],
)  # fmt: skip
undifferentiable(
    "its output is a sample, a text or a class",
    [
        "Bernoulli", "Multinomial", "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit",
        "TfIdfVectorizer",
    ],
)  # fmt: skip
