"""JavaScript packages that tests need, as a lock file pins them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

PATIENT = ("--loglevel=error", "--fetch-timeout=30000", "--fetch-retries=5")
"""A registry that does not answer is asked again, and at last the reason is said; npm waits five minutes by itself."""


def install(files: list[Path], place: Path, what: str) -> None:
    """Copies `files`, among them the lock file, into a folder, and installs what it pins there.

    npm runs in that folder: named by `--prefix`, it would replace the machine's settings, certificates among them.
    """
    npm = shutil.which("npm")
    if npm is None:
        sys.exit(f"{what} JavaScript packages; get npm by `make programs`, as root.")
    place.mkdir(exist_ok=True)
    for file in files:
        shutil.copy(file, place)
    subprocess.run([npm, "ci", *PATIENT, "--ignore-scripts"], cwd=place, check=True)
