"""`python -m bench.validation [PART] [--quick]`: how often verdicts are wrong; writes docs/validation.md."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.validation.advice import advice
from bench.validation.coverage import intervals
from bench.validation.layers import layers
from bench.validation.power import power
from bench.validation.rates import rates
from bench.validation.report import chosen_beforehand, ground_truths
from bench.validation.seeds import seeds
from bench.validation.sequential import association, passes, sequential
from bench.validation.tolerance import tolerance

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"
PARTS: Mapping[str, Callable[[bool, Path], tuple[str, bool]]] = {
    "truths": ground_truths,
    "tables": chosen_beforehand,
    "intervals": lambda quick, _: intervals(quick),
    "seeds": lambda quick, folder: seeds(quick, folder),
    "power": lambda quick, _: power(quick),
    "layers": lambda quick, _: layers(quick),
    "sequential": lambda quick, _: sequential(quick),
    "association": lambda quick, _: association(quick),
    "passes": passes,
    "advice": lambda quick, _: advice(quick),
    "tolerance": lambda quick, _: tolerance(quick),
    "rates": lambda quick, _: rates(quick),
}
"""Part → writes its text and says whether it holds; it may use the given folder."""

HEAD = """# Validation

How often the verdicts are wrong where the truth is known. Made by `make validation`; do not edit. The code is in
[`bench/validation`](../bench/validation/__main__.py); `python -m bench.validation truths` makes its first part
anew, and so on for each part.
"""


def main(arguments: Sequence[str]) -> int:
    """Makes the part that is named, or all; 1 where one does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS, help="all when left out")
    parser.add_argument("--quick", action="store_true", help="a small share of the audits, and no page")
    options = parser.parse_args(arguments)
    everything = True
    for name in [options.part] if options.part else PARTS:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="caveat-validation-") as folder:
            text, holds = PARTS[name](options.quick, Path(folder))
        everything &= holds
        print(text)
        result = "holds" if holds else "DOES NOT HOLD"
        print(f"{name}: {result}, {time.perf_counter() - started:.0f} s", file=sys.stderr)
        if not options.quick:
            PAGE.write_text(page(PAGE.read_text() if PAGE.exists() else "", name, text))
    return int(not everything)


def page(before: str, part: str, text: str) -> str:
    """The page with one part in place of what it was before."""
    kept = {name: found[1] for name in PARTS if (found := re.search(_marked(name, "(.*?)"), before, re.DOTALL))}
    parts = kept | {part: f"\n{text.strip()}\n"}
    return "\n".join([HEAD, *(_marked(name, parts[name]) + "\n" for name in PARTS if name in parts)])


def _marked(name: str, text: str) -> str:
    return f"<!-- {name} -->{text}<!-- end of {name} -->"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
