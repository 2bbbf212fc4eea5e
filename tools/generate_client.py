"""Generates the synchronous client from the asynchronous one, or checks that it is up to date (`--check`).

`async_client.py` is the source of `client.py`: unasync replaces its tokens, ruff sorts and formats the result.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from unasync import Rule, unasync_files

PACKAGE = Path(__file__).parents[1] / "client" / "caveat"
SOURCE, TARGET = PACKAGE / "async_client.py", PACKAGE / "client.py"
REPLACEMENTS = {
    "AsyncAction": "Action",
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "aclose": "close",
    "async_chunks": "chunks",
    "async_addressed": "addressed",
    "asyncio": "time",  # both have a `sleep`
}
"""Names of the asynchronous client → their synchronous counterparts; unasync itself knows those of the language."""
HEADING = "The synchronous client of the API. Generated from `async_client.py` by `make generate`: do not edit."


def synchronous(source: str) -> str:
    """The synchronous client, given the source of the asynchronous one."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = (Path(folder, name, TARGET.name) for name in ("_async", "_sync"))
        given.parent.mkdir()
        _, newline, code = source.partition("\n")
        given.write_text(f'"""{HEADING}"""{newline}{code}', encoding="utf-8")
        unasync_files([str(given)], [Rule("/_async/", "/_sync/", REPLACEMENTS)])
        return _ruff("format", _ruff("check", made.read_text(encoding="utf-8"), "--fix", "--select", "I"))


def _ruff(command: str, code: str, *options: str) -> str:
    """Runs ruff over `code` as if it stood in the target's place; returns the result."""
    run = [sys.executable, "-m", "ruff", command, *options, "--quiet", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(run, input=code, capture_output=True, text=True, encoding="utf-8", check=True).stdout  # noqa: S603 - our own program


def main(arguments: list[str]) -> int:
    """Writes or checks the file; returns the exit status."""
    wanted = synchronous(SOURCE.read_text(encoding="utf-8"))
    if arguments != ["--check"]:
        TARGET.write_text(wanted, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != wanted:
        print(f"{TARGET} is not what {SOURCE.name} gives: run `make generate`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
