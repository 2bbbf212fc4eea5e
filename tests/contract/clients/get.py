"""Downloads the generators of the contract's clients: `python -m tests.contract.clients.get`."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from tests import npm

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".cache" / "clients"


def main() -> None:
    """Puts Python's generators into an environment of their own, and TypeScript's beside it, in `.cache/clients/`."""
    venv.create(CACHE / "python", with_pip=True, clear=True)
    _run(str(CACHE / "python/bin/pip"), "install", "--quiet", "--requirement", str(HERE / "requirements.txt"))
    pinned = [HERE / name for name in ("package.json", "package-lock.json")]
    npm.install(pinned, CACHE / "node", "Generators of TypeScript are")


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
