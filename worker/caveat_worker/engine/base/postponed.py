"""Modules that are loaded at their first use: a library imports them, and hardly any audit needs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

POSTPONED = frozenset({"sympy", "onnx_ir._symbolic_shapes", "numpy.f2py", "numpy.testing"})
"""onnx_ir does arithmetic with symbolic sizes by sympy, a quarter of all that the engine imports; scipy asks NumPy for
every name that it has, also for its compiler of Fortran and its tools for tests."""


class PostponedModules(MetaPathFinder):
    """Finds some modules as `importlib.util.LazyLoader` does: what they hold is loaded when it is first looked at."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The specification of a module that is postponed; None for any other."""
        found = PathFinder.find_spec(fullname, path, target) if fullname in POSTPONED else None
        if found is None or not isinstance(found.loader, Loader):
            return None
        found.loader = LazyLoader(found.loader)
        return found


def postpone() -> None:
    """Lets modules be postponed in this process from here on."""
    if not any(isinstance(finder, PostponedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, PostponedModules())
