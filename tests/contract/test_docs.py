"""The tables of docs/api.md are those of the code; `python -m tests.contract.test_docs` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic_settings import BaseSettings

import service.settings
import worker.settings
from api_spec.openapi import OPERATIONS
from vault import lifecycle
from vault.lifecycle import ENDED, STEPS

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def operations() -> str:
    rows = [
        f"| `{operation.method} {operation.path}` | {operation.summary} | "
        f"{', '.join(str(status) for status in sorted([*operation.answers, *operation.problems]))} |"
        for operation in OPERATIONS
    ]
    return "\n".join(["| operation | | answers |", "| --- | --- | --- |", *rows])


def settings(model: type[BaseSettings]) -> str:
    rows = [
        f"| `CAVEAT_{name.upper()}` | `{field.default}` | {field.description} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| variable | default | |", "| --- | --- | --- |", *rows])


def steps() -> str:
    """The life of a job as a drawing, which GitHub shows as one."""
    lines: dict[tuple[str, str], list[str]] = {}
    for step, (before, after) in STEPS.items():
        lines.setdefault((before or "[*]", after), []).append(step)
    drawn = [f"  {before} --> {after}: {', '.join(names)}" for (before, after), names in lines.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *drawn, *(f"  {one} --> [*]" for one in sorted(ENDED)), "```"])


def generated(page: str) -> str:
    """The page with its tables as the code has them."""
    tables = {
        "operations": operations(),
        "steps": steps(),
        "service settings": settings(service.settings.Settings),
        "worker settings": settings(worker.settings.Settings),
    }
    for name, table in tables.items():
        page = re.sub(
            rf"(<!-- {name}: .*?-->\n).*?(<!-- /{name} -->)",
            lambda found, table=table: f"{found[1]}{table}\n{found[2]}",  # type: ignore[misc]
            page,
            flags=re.DOTALL,
        )
    return page


def test_the_tables_are_those_of_the_code() -> None:
    assert PAGE.read_text() == generated(PAGE.read_text())


def test_the_drawing_in_the_code_shows_every_step() -> None:
    for step in STEPS.keys() - {"ask_to_cancel", "advance"}:
        assert step in (lifecycle.__doc__ or "")


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
