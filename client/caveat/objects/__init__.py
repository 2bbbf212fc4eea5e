"""Objects of Python as the files that an audit names: example sets and models, one row for each kind.

Classes are known by name, so that no library is imported for the sake of looking at an object.
"""

from __future__ import annotations


def class_names(value: object) -> frozenset[str]:
    """The qualified names of an object's class and of every class that it derives from."""
    return frozenset(f"{one.__module__}.{one.__qualname__}" for one in type(value).__mro__)
