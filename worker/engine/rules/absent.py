"""Where no gradient flows, and why: absence is stated, not left out."""

from __future__ import annotations

from .table import undifferentiable

undifferentiable("its output is constant between steps", ["Ceil", "Floor", "Round", "Sign", "Hardmax"])
undifferentiable(
    "its output is a condition",
    [
        "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor",
    ],
)  # fmt: skip
undifferentiable(
    "its output is an index, a size or another integer",
    [
        "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "NonMaxSuppression",
        "NonZero", "Shape", "Size", "ConvInteger", "MatMulInteger",
    ],
)  # fmt: skip
undifferentiable(
    "its output does not depend on the numbers in its input",
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
