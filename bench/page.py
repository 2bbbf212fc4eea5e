"""Tables of the measured pages, and whether an aim was met."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown, in whose cells a bar is no border."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def at_least(figure: float, aim: float, unit: str = " x") -> list[str]:
    """A figure, the least that it should be, and whether it is."""
    return [f"{figure:.3g}{unit}", f"≥ {aim:g}{unit}", yes(figure >= aim)]


def at_most(figure: float, aim: float) -> list[str]:
    """A figure, the most that it should be, and whether it is."""
    return [f"{figure:.3g}", f"≤ {aim:g}", yes(figure <= aim)]


def yes(met: bool) -> str:
    """Whether an aim was met; a miss is bold."""
    return "yes" if met else "**no**"
