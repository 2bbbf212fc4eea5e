"""What a person waits for: `caveat gate` of small audits, from the prompt to its end."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from compileall import compile_dir
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml

from bench.audits import of_rows
from bench.networks import perceptron
from bench.page import at_most, table
from examples.graph import save

AIMS = {"tiny": 1.2, "table": 2.0}


def commands(folder: Path, rounds: int, quick: bool) -> str:
    """(h) The command as a person runs it, beside a Python that does nothing."""
    cases = {"tiny": _tiny(folder / "tiny"), "table": _table_of_people(folder / "table")}
    _compile()
    for case in cases.values():
        _ran("-m", "caveat", "gate", str(case))  # files are in the page cache from here on
    spent = {name: [_ran("-m", "caveat", "gate", str(case)) for _ in range(rounds)] for name, case in cases.items()}
    idle = [_ran("-c", "pass") for _ in range(rounds)]
    said = {
        "tiny": "784 inputs, 200 rows of arrays, one layer, one concept, one line",
        "table": "a CSV of 2,380 rows, 20 inputs, five layers, two concepts, two lines",
    }
    rows = [
        [said[name], f"{median(cpu for _, cpu in runs):.2f}", *at_most(median(wall for wall, _ in runs), AIMS[name])]
        for name, runs in spent.items()
    ]
    nothing = [f"{median(seconds):.2f}" for seconds in zip(*idle, strict=True)]
    rows.append(["Python that does nothing", nothing[1], nothing[0], "", ""])
    return f"""## The person who waits

`caveat gate audit.yaml` on this machine, from the prompt to its exit: the command, the process that imports the engine,
and the confined process that it forks. Medians of {rounds} rounds; CPU seconds are those of all three. Sources are
compiled before, as an installation compiles them.

{table(["audit", "CPU s", "wall s", "aim", "met"], rows)}"""


def _tiny(folder: Path) -> Path:
    question = of_rows(folder, features=784)
    return _written(folder, question.document | {"gate": [_line("feature1")]})


def _table_of_people(folder: Path) -> Path:
    """Rows of two kinds in one table; `where` selects the sets."""
    folder.mkdir()
    save(perceptron(20, [64, 64, 32, 32, 16]), folder / "model.onnx")
    rng = np.random.default_rng(1)
    names = [f"column{number + 1}" for number in range(20)]
    values = rng.normal(size=(2380, 20))
    kind = np.repeat(["first", "second", "target", "other"], [300, 300, 200, 1580])
    values[kind == "first", 0] += 2
    values[kind == "second", 1] += 2
    lines = [",".join([*names, "kind"]), *(
        ",".join([*(f"{one:.4f}" for one in row), of]) for row, of in zip(values, kind, strict=True)
    )]  # fmt: skip
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    sets = {
        of: {"table": "people.csv", "where": f"kind == {of}", "features": names} for of in dict.fromkeys(kind.tolist())
    }
    return _written(
        folder,
        {
            "model": "model.onnx",
            "examples": sets,
            "concepts": {of: {"examples": of, "against": "other"} for of in ("first", "second")},
            "targets": {"score": {"examples": "target"}},
            "layers": [f"hidden{number + 1}" for number in range(5)],
            "gate": [_line("first"), _line("second")],
        },
    )


def _line(concept: str) -> dict[str, Any]:
    return {"concept": concept, "target": "score", "must": "not_matter", "tolerance": 0.5}


def _written(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "audit.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _compile() -> None:
    """Makes bytecode of the checkout's packages, as pip does; PYTHONDONTWRITEBYTECODE keeps Python from it."""
    for package in ("caveat", "caveat_reports", "caveat_spec", "caveat_storage", "caveat_telemetry", "caveat_worker"):
        spec = find_spec(package)
        assert spec is not None, f"there is no package {package}"
        for folder in spec.submodule_search_locations or ():
            compile_dir(folder, quiet=2)


def _ran(*arguments: str) -> tuple[float, float]:
    """Wall and CPU seconds of a Python with these arguments and of all that it starts."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "CAVEAT_URL"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode in (0, 1, 4), done.stderr
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
