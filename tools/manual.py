"""Writes the manual page of the command from `docs/command.md`: `python tools/manual.py`; `--check` only compares.

The page, `docs/man/caveat.1`, is part of the wheel. Sphinx writes it, as it writes the site; it has no date, and links
to other pages are their words.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "man" / "caveat.1"


def main(arguments: list[str]) -> int:
    """Writes the page, or says that it is out of date."""
    text = manual()
    if "--check" not in arguments:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is not what docs/command.md says: run `.venv/bin/python tools/manual.py`.", file=sys.stderr)
        return 1
    return 0


def manual() -> str:
    """The page in the language of `man`; Sphinx reads only what it is made of, so links elsewhere warn of nothing."""
    with tempfile.TemporaryDirectory() as folder:
        only = ("-D", "root_doc=docs/command", "-D", "include_patterns=docs/command.md", "-D", "language=en")
        command = [sys.executable, "-m", "sphinx", "-QQ", "-b", "man", "-c", "docs/site", *only, ".", folder]
        subprocess.run(command, cwd=ROOT, check=True)  # noqa: S603 - no word of it comes from outside
        text = Path(folder, "caveat.1").read_text(encoding="utf-8")
    text = re.sub(r"^\.TH .*$", '.TH "CAVEAT" "1" "" "Caveat" "Caveat"', text, count=1, flags=re.MULTILINE)
    return re.sub(r" ?\\%<[^>\n]*>(\\&)?", "", text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
