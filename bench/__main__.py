"""`python -m bench [--quick] [--only audit,captum,…]`: what audits cost, printed and written to docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime

from bench import sections

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
LIBRARIES = ("onnxruntime", "onnx", "numpy", "scipy", "torch", "captum", "gunicorn", "celery", "psycopg")
SECTIONS: dict[str, Callable[[Path, bool], str]] = {
    "audit": sections.against_the_bound,
    "captum": sections.against_captum,
    "gradients": sections.against_eager,
    "scaling": sections.scaling,
    "memory": sections.bounded_memory,
    "service": sections.under_load,
}


@dataclass
class Load:
    """How busy the machine was: the mean number of processes that wanted to run."""

    begun: float
    ended: float = 0.0


def main(arguments: Sequence[str]) -> int:
    """Measures, prints and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, one round, and no page")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by comma; the page holds these alone")
    told = parser.parse_args(arguments)
    load, started = Load(os.getloadavg()[0]), time.perf_counter()
    parts = []
    for name in told.only.split(","):
        print(f"{name} …", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="caveat-bench-") as folder:
            parts.append(SECTIONS[name](Path(folder), told.quick))
    load.ended = os.getloadavg()[0]
    text = "\n".join([head(load, time.perf_counter() - started), *parts])
    print(text)
    if not told.quick:
        PAGE.write_text(text)
    return 0


def head(load: Load, seconds: float) -> str:
    """What ran, on what, with what."""
    return f"""# Benchmarks

Made by `make bench`; do not edit. The code is in [`bench`](../bench). Things that are compared take turns in one run,
each in a process of its own, and figures are medians; "CPU s" are processor seconds over all threads. Weights are
random and seeded, pictures are painted and seeded: nothing is downloaded.

| | |
| --- | --- |
| machine | {processor()}, {os.cpu_count()} cores, {memory() >> 30} GiB, {platform.system()} {platform.release()} |
| load when it began and ended | {load.begun:.1f} and {load.ended:.1f} (a machine to itself begins under 0.5) |
| Python | {platform.python_version()} |
| libraries | {", ".join(f"{name} {installed(name)}" for name in LIBRARIES)} |
| execution providers | {", ".join(onnxruntime.get_available_providers())} |
| command | `python -m bench`, {seconds / 60:.0f} minutes |
"""


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
