"""`caveat plan` counts examples and never runs the model."""

from __future__ import annotations

import json
from pathlib import Path

from tests.client.conftest import Command


def test_it_says_what_is_out_of_reach_before_the_model_runs(audit_file: Path, command: Command) -> None:
    """The model of this folder is no model at all."""
    told = command("plan", audit_file)
    assert told.returncode == 0, told.stderr
    assert "Perhaps out of reach: mark on carton: By the assumed spread, with " in told.stdout
    assert "for 0.1 sd give " in told.stdout
    assert "Assumed until a report has measured it" in told.stdout


def test_it_is_json_too(audit_file: Path, command: Command) -> None:
    told = command("plan", audit_file, "--format", "json")
    planned = json.loads(told.stdout)
    (line,) = planned["lines"]
    assert line["evidence"] == "matched pairs"
    assert line["reachable"] is False
    assert line["has"]["marked"] == planned["examples"]["marked"]


def test_gate_says_so_on_a_terminal_before_it_runs(audit_file: Path, command: Command) -> None:
    told = command("gate", audit_file, FORCE_COLOR="1")
    assert "Perhaps out of reach: mark on carton" in told.stderr
    assert told.returncode == 2  # the model is none
    assert told.stderr.index("Perhaps out of reach") < told.stderr.rindex("Error")


def test_a_missing_file_is_named(audit_file: Path, command: Command) -> None:
    told = command("plan", audit_file.with_name("other.yaml"))
    assert told.returncode == 2
    assert "other.yaml" in told.stderr
