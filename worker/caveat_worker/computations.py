"""The functions that a job's process calls: an audit, directions, pictures, a study, a look at a model or at examples.

Each is imported when it is asked for: an audit needs nothing of what draws pictures.
"""

from importlib import import_module
from typing import Any

_PLACES = {
    "analyse_study": "caveat_worker.study_analysis",
    "find_directions": "caveat_worker.directions",
    "inspect_examples": "caveat_worker.inspection",
    "inspect_model": "caveat_worker.inspection",
    "make_pictures": "caveat_worker.visualisation",
    "plan_examples": "caveat_worker.inspection",
    "run": "caveat_worker.pipeline",
}


def __getattr__(name: str) -> Any:
    """The function of this name; raises AttributeError for any other."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
