"""schemathesis with all its checks on the running service, with a key and without one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from caveat_storage import keys
from caveat_storage.job_records import Database
from tests.worker.live import serving

HERE = Path(__file__).parent
EXAMPLES = {"with a key": 175, "without a key": 100}
FEWEST = {"with a key": 5000, "without a key": 4000}
"""Least number of cases, so that a run without cases is not a success."""


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("who", EXAMPLES)
def test_all_checks_find_nothing(who: str, tmp_path: Path) -> None:
    with serving(tmp_path, CAVEAT_AUTH="keys", CAVEAT_LONGEST_WAIT="1") as (url, _):
        database = Database(f"sqlite:///{tmp_path / 'caveat.db'}")
        key = keys.issue(database, "acme", "ci", ["submit", "read", "admin"])
        database.close()
        # one worker: ast.parse, which hypothesis uses, fails in threads of Python 3.11 (python/cpython#106905)
        command = [
            str(Path(sys.executable).parent / "st"), "--config-file", str(HERE / "schemathesis.toml"), "run",
            f"{url}/v1/openapi.json", "--checks", "all", "--max-examples", str(EXAMPLES[who]), "--seed", "20",
            "--continue-on-failure", "--workers", "1", "--no-color",
        ]  # fmt: skip
        command += ["--header", f"Authorization: Bearer {key}"] if who == "with a key" else []
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    made = re.search(r"(\d+) generated", ran.stdout)
    assert made, ran.stdout[-4000:] + ran.stderr[-2000:]
    print(f"\n{who}: {made[0]}")
    assert ran.returncode == 0 or _gave_up(ran.stdout), ran.stdout[-8000:]
    assert int(made[1]) >= FEWEST[who]
    assert "Traceback" not in (tmp_path / "api.log").read_text()


def _gave_up(said: str) -> bool:
    """Whether the only error is that the generator found no example of a schema that it derived."""
    given_up = len(re.findall(r"^Cannot generate an array with \d+ demanded elements$", said, re.MULTILINE))
    ended = re.search(r"^=+ (\d+) errors?(?:, \d+ warnings?)? in [\d.]+s =+$", said, re.MULTILINE)  # and no failure
    return ended is not None and int(ended[1]) == given_up
