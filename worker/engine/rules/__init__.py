"""The table of derivatives, one file a family of operators."""

from . import absent, convolution, elementwise, linear, normalisation, pooling, recurrent, reduction, shaping
from .table import LOWERED, UNDIFFERENTIABLE, VJP, Refusal, Rule

__all__ = [
    "LOWERED",
    "UNDIFFERENTIABLE",
    "VJP",
    "Refusal",
    "Rule",
    "absent",
    "convolution",
    "elementwise",
    "linear",
    "normalisation",
    "pooling",
    "recurrent",
    "reduction",
    "shaping",
]
