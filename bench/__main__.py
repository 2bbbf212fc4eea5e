"""`python -m bench [--quick] [--only audit,…]` measures what audits cost, prints it and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime

from bench import large, sections, sharing, waiting
from bench.measure import installed

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
LIBRARIES = ("onnxruntime", "onnx", "numpy", "scipy", "torch", "captum", "gunicorn", "celery", "psycopg")
SECTIONS: dict[str, Callable[[Path, int, bool], str]] = {
    "audit": sections.against_the_bound,
    "captum": sections.against_captum,
    "large": large.transformers,
    "sharing": sharing.jobs_of_one_model,
    "gradients": sections.against_eager,
    "waiting": waiting.commands,
    "scaling": sections.scaling,
    "tables": sections.large_tables,
    "memory": sections.bounded_memory,
    "service": sections.under_load,
    "shards": sections.in_shards,
}


def main(arguments: Sequence[str]) -> int:
    """Measures, prints and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, one round, and no page")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; figures are their medians")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by comma; the page's others stay")
    options = parser.parse_args(arguments)
    parts = known(PAGE.read_text()) if PAGE.exists() else {}
    for name in options.only.split(","):
        print(f"{name} …", file=sys.stderr)
        parts[name] = section(name, options.rounds, options.quick)
        print(parts[name])
        if not options.quick:
            PAGE.write_text("\n".join([head(), *(parts[each] for each in SECTIONS if each in parts)]))
    return 0


def section(name: str, rounds: int, quick: bool) -> str:
    """One section between markers, with the machine's load before and after it."""
    os.sync()  # an earlier section's writes would slow the database down
    begun, started = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="caveat-bench-") as folder:
        text = SECTIONS[name](Path(folder), 1 if quick else rounds, quick)
    ran = (
        f"*`python -m bench --only {name} --rounds {rounds}`, {(time.perf_counter() - started) / 60:.0f} minutes; the "
        f"load was {begun:.1f} when it began and {os.getloadavg()[0]:.1f} when it ended.*"
    )
    return f"<!-- {name} -->\n{text.rstrip()}\n\n{ran}\n<!-- /{name} -->\n"


def known(page: str) -> dict[str, str]:
    """The sections of a page by their markers."""
    marked = re.finditer(r"<!-- (\w+) -->\n.*?<!-- /\1 -->\n", page, re.DOTALL)
    return {match[1]: match[0] for match in marked}


def head() -> str:
    """The page's head: the machine and the versions."""
    return f"""# Benchmarks

Made by `make bench`; do not edit. The code is in [`bench`](../bench/__main__.py). Compared cases take turns in one run,
each in a process of its own, and figures are medians; "CPU s" are CPU seconds over all threads. The load is the mean
number of runnable processes: on an otherwise idle machine it begins under 0.5, or with what the section before left
over. Weights are random and seeded, pictures are drawn and seeded: nothing is downloaded.

| | |
| --- | --- |
| machine | {processor()}, {os.cpu_count()} cores, {memory() >> 30} GiB, {platform.system()} |
| Python | {platform.python_version()} |
| libraries | {", ".join(f"{name} {installed(name)}" for name in LIBRARIES)} |
| execution providers | {", ".join(onnxruntime.get_available_providers())} |
"""


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
