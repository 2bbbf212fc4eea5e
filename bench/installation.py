"""Sizes of each way to install Caveat: `python -m bench.installation` (asks the package index).

Each extra goes into an empty environment by pip, from a wheel of this checkout, with the versions of `constraints.txt`.
Writes the table of `docs/how-to/install.md`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "install.md"
BEGIN, END = "<!-- sizes: python -m bench.installation -->\n", "<!-- /sizes -->"
EXTRAS = ("", "sigstore", "images", "local")
LARGEST = 10
"""Distributions that the table names."""


@dataclass(frozen=True)
class Installed:
    """What came of one installation; sizes in MB, with the bytecode that pip writes."""

    extra: str
    size: float
    parts: list[tuple[float, str]]


def main() -> None:
    """Measures every extra and writes the table."""
    with tempfile.TemporaryDirectory() as folder:
        found = [install(extra, Path(folder)) for extra in EXTRAS]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(found) + END + rest.partition(END)[2])


def install(extra: str, folder: Path) -> Installed:
    """Installs one extra into an environment of its own."""
    environment = folder / (extra or "client")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    wanted = f"{ROOT}[{extra}]" if extra else str(ROOT)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), wanted], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    parts = sorted(((size_of(one), one.metadata["Name"]) for one in distributions(path=[str(packages)])), reverse=True)
    return Installed(extra, sum(size for size, _ in parts), parts)


def size_of(distribution: object) -> float:
    """MB of the files that a distribution's record names, bytecode included."""
    files = [Path(str(one.locate())) for one in getattr(distribution, "files", None) or []]
    return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def table(found: list[Installed]) -> str:
    """Markdown: a row for each extra."""
    rows = [
        f"| `{f'caveat[{one.extra}]' if one.extra else 'caveat'}` | {one.size:,.0f} MB | {len(one.parts)} | "
        f"{', '.join(f'{name} {size:.0f}' for size, name in one.parts[:LARGEST])} |\n"
        for one in found
    ]
    heading = "| install | size | distributions | the largest (MB) |\n| --- | --- | --- | --- |\n"
    return heading + "".join(rows)


if __name__ == "__main__":
    main()
