"""pytest's plugin, as a person's own test suite uses it: one line an audit, also where tests run side by side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """\
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import caveat
from caveat.testing import assert_concept, assert_passes

x = np.random.default_rng(0).normal(size=(120, 3))
fitted = LogisticRegression().fit(x, x[:, 0] + x[:, 1] > 0)
high, low = x.copy(), x.copy()
high[:, 0], low[:, 0] = 1, -1
asked = dict(
    concept={"examples": "high", "against": "low"},
    target={"examples": "all", "index": 1},
    examples={"all": x, "high": {"arrays": high, "pairs_with": "low"}, "low": low},
    method={"bootstrap": 99, "permutations": 99, "runs": 20},
    show_progress=False,
)


@pytest.mark.caveat
def test_the_first_number_matters():
    assert_concept(fitted, must="matter", **asked)


@pytest.mark.caveat
def test_it_must_not():
    assert_concept(fitted, must="not_matter", **asked)


def test_without_an_audit():
    pass
"""


@pytest.mark.parametrize(
    "how", [pytest.param((), id="one process"), pytest.param(("-n", "2"), id="xdist", marks=pytest.mark.slow)]
)
def test_the_summary_has_a_line_for_each_audit(tmp_path: Path, how: tuple[str, ...]) -> None:
    (tmp_path / "test_model.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "--strict-markers", "-m", "caveat", *how]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    section = done.stdout.partition(" audits ")[2]
    assert "test_model.py::test_the_first_number_matters: Passes: The one line of the gate holds." in section
    assert "test_model.py::test_it_must_not: Fails: The one line of the gate does not hold." in section
    assert "concept must not matter to target: Concept changes the score of target by" in done.stdout
