"""Families of operators that tables of rules other than derivatives treat alike."""

from __future__ import annotations

ACTIVATIONS = (
    "Celu", "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu",
    "Shrink", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu",
)  # fmt: skip
"""Functions of one number that networks have as activations."""
FUNCTIONS = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh", "Exp", "Log", "Reciprocal", "Sin", "Sinh",
    "Sqrt", "Tan",
)  # fmt: skip
"""Other functions of one number."""
BILINEAR = ("Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul", "Mul")
"""Products: linear in each factor."""
LINEAR = (
    "Add", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Concat", "CumSum", "DepthToSpace",
    "DequantizeLinear", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "GlobalAveragePool",
    "Identity", "Mean", "Neg", "Pad", "QuantizeLinear", "ReduceMean", "ReduceSum", "Reshape", "Resize",
    "ReverseSequence", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Squeeze", "Sub", "Sum",
    "Tile", "Transpose", "Trilu", "Unsqueeze",
)  # fmt: skip
"""Operators that are linear in the tensors that a gradient reaches."""
