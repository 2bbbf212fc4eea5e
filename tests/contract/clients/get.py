"""Downloads the generators of the contract's clients: `python tests/contract/clients/get.py`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "clients"
PATIENT = ("--loglevel=error", "--fetch-timeout=30000", "--fetch-retries=5")
"""A registry that does not answer is asked again, and at last the reason is said; npm waits five minutes by itself."""


def main() -> None:
    """Puts Python's generators into an environment of their own, and TypeScript's beside it, in `.cache/clients/`."""
    venv.create(CACHE / "python", with_pip=True, clear=True)
    _run(str(CACHE / "python/bin/pip"), "install", "--quiet", "--requirement", str(HERE / "requirements.txt"))
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("Generators of TypeScript are JavaScript packages; get npm by `make programs`, as root.")
    node = CACHE / "node"
    node.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, node)
    _run(npm, "ci", *PATIENT, "--ignore-scripts", "--prefix", str(node))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
