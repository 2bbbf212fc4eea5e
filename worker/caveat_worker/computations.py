"""The functions that a job's process calls: an audit, directions, pictures, a look at a model or an example set."""

from caveat_worker.directions import find_directions
from caveat_worker.inspection import inspect_examples, inspect_model, plan_examples
from caveat_worker.pipeline import run
from caveat_worker.visualisation import make_pictures

__all__ = ["find_directions", "inspect_examples", "inspect_model", "make_pictures", "plan_examples", "run"]
