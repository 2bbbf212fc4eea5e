"""Gradients, concepts and statistics on arrays: no queue, no web, no files, no clock.

The gradient of any ONNX model, as an ONNX model:

    model = load(Path("model.onnx"))
    graph = differentiate(model, ["block15"], [Target("carton", index=478)])
    graph.save("gradient.onnx")  # outputs: value/carton, gradient/carton/block15
"""

from .check import GradientCheck, check_gradients, check_on_noise
from .differentiate import Target, cut_at, differentiate, expose, resolve_target
from .errors import Refused
from .graph import Graph
from .layers import Layer, choose_layers, list_layers
from .model import Model, load
from .rules import differentiable_operators
from .session import Session, open_session

__all__ = [
    "GradientCheck",
    "Graph",
    "Layer",
    "Model",
    "Refused",
    "Session",
    "Target",
    "check_gradients",
    "check_on_noise",
    "choose_layers",
    "cut_at",
    "differentiable_operators",
    "differentiate",
    "expose",
    "list_layers",
    "load",
    "open_session",
    "resolve_target",
]
