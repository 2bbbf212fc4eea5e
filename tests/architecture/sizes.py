"""Sizes of the code: `python -m tests.architecture.sizes` prints the lengths of functions and the largest files."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[2]
FOLDERS = ("api_spec", "storage", "reports", "telemetry", "service", "worker", "client")


def files() -> list[Path]:
    """Every Python file of the packages, migrations aside."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "migrations" not in path.parts)


def functions() -> dict[str, int]:
    """Every function → its lines, from `def` to its last one."""
    return {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def main() -> None:
    """Prints median, 90th percentile and maximum of both."""
    lengths, lines = functions(), {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in files()}
    for name, sizes in (("functions", lengths), ("files", lines)):
        every = list(sizes.values())
        print(f"{len(every)} {name}: median {median(every):g} lines, 90th percentile {quantiles(every, n=10)[-1]:g}")
        for place, size in sorted(sizes.items(), key=lambda one: -one[1])[:5]:
            print(f"  {size:>4} {place}")


if __name__ == "__main__":
    main()
