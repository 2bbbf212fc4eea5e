"""The functions that a job's process calls: an audit as a whole, or a look at a model or an example set."""

from caveat_worker.inspection import inspect_examples, inspect_model, plan_examples
from caveat_worker.pipeline import run

__all__ = ["inspect_examples", "inspect_model", "plan_examples", "run"]
