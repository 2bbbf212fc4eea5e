"""No import circles: not between files, not between rooms, and none hidden in functions or for type checkers."""

from __future__ import annotations

import pytest

from tests.architecture.imports import PACKAGES, ROOMS, module_graph, order, part_graph

MODULES = module_graph()


def test_no_module_imports_itself_by_way_of_others() -> None:
    ordered = order(MODULES)
    assert set(MODULES) <= set(ordered)


@pytest.mark.parametrize("package", dict.fromkeys((*PACKAGES, *ROOMS)))
def test_the_parts_of_a_package_import_one_way(package: str) -> None:
    parts = part_graph(MODULES, package)
    assert len(order(parts)) >= len(parts) > 0
