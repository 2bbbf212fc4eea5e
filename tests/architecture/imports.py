"""The import graph of every package: `python -m tests.architecture.imports` prints it, room by room."""

from __future__ import annotations

from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

import grimp

PACKAGES = (
    "caveat_spec",
    "caveat_storage",
    "caveat_reports",
    "caveat_telemetry",
    "caveat_service",
    "caveat_worker",
    "caveat",
)
ROOMS = ("caveat_worker", "caveat_worker.engine")
"""Packages whose parts are packages themselves."""


def module_graph() -> dict[str, set[str]]:
    """Module → the modules of ours that it imports, those inside functions and for type checkers included."""
    graph = grimp.build_graph(*PACKAGES)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def part_graph(modules: dict[str, set[str]], package: str) -> dict[str, set[str]]:
    """The parts of a package, files or folders → the parts that they import."""
    parts: dict[str, set[str]] = defaultdict(set)
    for module, imported in modules.items():
        part = _part(module, package)
        if part is None:
            continue
        parts[part] |= {other for one in imported if (other := _part(one, package)) not in (None, part)}
    return dict(parts)


def order(graph: dict[str, set[str]]) -> list[str]:
    """The parts from the ground up; raises CycleError where they import each other."""
    return list(TopologicalSorter(graph).static_order())


def _part(module: str, package: str) -> str | None:
    inside = module.removeprefix(f"{package}.")
    return inside.partition(".")[0] if inside != module else None


def main() -> None:
    """Prints every package's parts, each with what it imports; the order is that of the imports."""
    modules = module_graph()
    for package in (*PACKAGES, *(room for room in ROOMS if room not in PACKAGES)):
        parts = part_graph(modules, package)
        try:
            ordered = order(parts)
        except CycleError as cycle:
            print(f"{package}: a circle: {' → '.join(cycle.args[1])}")
            continue
        print(f"{package}: {len(parts)} parts, no circle")
        for part in ordered:
            print(f"  {part:<28}{' '.join(sorted(parts.get(part, ())))}".rstrip())


if __name__ == "__main__":
    main()
