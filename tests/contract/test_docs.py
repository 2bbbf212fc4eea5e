"""The tables of docs/api.md are generated from the code: `python -m tests.contract.test_docs` updates them."""

from __future__ import annotations

import re
from pathlib import Path

from caveat_spec.openapi import OPERATIONS
from caveat_storage import job_state
from caveat_storage.job_state import ENDED, STEPS

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def operations() -> str:
    rows = [
        f"| `{operation.method} {operation.path}` | {operation.summary} | "
        f"{', '.join(str(status) for status in sorted([*operation.answers, *operation.problems]))} |"
        for operation in OPERATIONS
    ]
    return "\n".join(["| operation | | answers |", "| --- | --- | --- |", *rows])


def steps() -> str:
    """The states of a job as a Mermaid diagram."""
    lines: dict[tuple[str, str], list[str]] = {}
    for step, (before, after) in STEPS.items():
        lines.setdefault((before or "[*]", after), []).append(step)
    drawn = [f"  {before} --> {after}: {', '.join(names)}" for (before, after), names in lines.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", *drawn, *(f"  {one} --> [*]" for one in sorted(ENDED)), "```"])


def generated(page: str) -> str:
    """The page with its tables generated from the code."""
    tables = {
        "operations": operations(),
        "steps": steps(),
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
        assert step in (job_state.__doc__ or "")


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
