"""The demonstration of explanations: one network, every interface, and pictures of what its layers look for.

python -m examples.tour

Writes a page of figures (`caveat explain`) and a page of made pictures (`caveat visualise`); neither decides anything.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from examples.watermark.build import FOLDER as WATERMARK
from examples.watermark.build import build as build_watermark

AUDIT = Path("examples/watermark/tour.yaml")
PAGES = Path(".caveat/demo/tour")
COMMANDS = (
    ["explain", str(AUDIT), "--local", "--html", str(PAGES / "figures.html")],
    [
        *("visualise", str(AUDIT), "--layer", "block13", "--concept", "watermark", "--channel", "3"),
        *("--like", "astronaut-00.png", "-o", str(PAGES / "pictures")),
    ],
)


def main() -> int:
    """Builds the inputs, runs both commands and names the pages; returns the exit code of the first that fails."""
    began = time.monotonic()
    print("Building two ImageNet networks and photographs from installed packages …", flush=True)
    build_watermark(WATERMARK)
    PAGES.mkdir(parents=True, exist_ok=True)
    for command in COMMANDS:
        print(f"\n── caveat {' '.join(command)}\n", flush=True)
        code = subprocess.run([sys.executable, "-m", "caveat", *command], check=False).returncode
        if code:
            return code
    print(f"\nThe tour took {time.monotonic() - began:.0f} s. Open its pages:")
    for page in (PAGES / "figures.html", PAGES / "pictures" / "index.html"):
        print(f"  {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
