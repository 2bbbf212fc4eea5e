"""Gradients, concepts and statistics on arrays: no queue, no web, no files, no clock."""

from .check import GradientCheck, check_gradients
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
