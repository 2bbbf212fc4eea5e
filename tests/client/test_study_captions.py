"""The article's experiment from end to end: networks whose truth is known, their maps, raters, and TCAV beside them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from caveat.cli import cli
from caveat_spec.study import StudyFindings
from examples.captions.build import WORDS, build
from examples.captions.question import question

pytestmark = pytest.mark.slow


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(one) for one in arguments])


def audited(folder: Path, network: str) -> Path:
    """The report of one network's audit, with two kinds of map for each class."""
    document: dict[str, Any] = question(folder / "seed0", network).model_dump(mode="json", exclude_defaults=True)
    document["method"] = {"pictures": "full", "runs": 50, "permutations": 199, "bootstrap": 199}
    document["explain"] = {
        f"why_{word}": {
            "of": word,
            "examples": {"count": 8},
            "show": ["gradient_x_input", {"occlusion": {"window": 8}}],
        }
        for word in WORDS
    }
    (folder / "audit.json").write_text(json.dumps(document))
    done = run("gate", folder / "audit.json", "--json", folder / "report.json")
    assert done.exit_code == 0, done.output
    return folder / "report.json"


def test_tests_find_what_raters_do_not(tmp_path: Path) -> None:
    """The network was trained without captions: the image matters. Raters who see nothing in the maps cannot tell."""
    build(tmp_path, range(1))
    report = audited(tmp_path, "none")
    truth = [part for word in WORDS for part in ("--truth", f"{word}=image")]
    concepts = ("--concept", "caption", "--image-concept", "image")
    made = run("study", "make", report, "--seed", 7, "-o", tmp_path / "study", *concepts, *truth)
    assert made.exit_code == 0, made.output
    assert "50 raters, each with 6 tasks (3 classes x 2 kinds of map) of 4 pictures" in made.output
    answer_at_random(tmp_path / "study" / "ratings.csv")
    done = run("study", "read", tmp_path / "study", "--report", report, "--json", tmp_path / "found.json")
    assert done.exit_code == 0, done.output
    found = StudyFindings.model_validate_json((tmp_path / "found.json").read_bytes())
    assert [(one.tests, one.truth) for one in found.orders] == [("image", "image")] * 3
    assert all(set(one.raters.values()) == {None} for one in found.orders)
    for right in found.correctness:
        assert right.interval is not None
        assert right.interval[0] < 0.5 < right.interval[1]


def answer_at_random(path: Path) -> None:
    """What raters answer to whom the maps say nothing."""
    rng = np.random.default_rng(1)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row in rows:
        row |= {"image": str(rng.integers(1, 11)), "concept": str(rng.integers(1, 11)), "confidence": "3"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
