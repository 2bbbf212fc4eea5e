"""What a person sees at a terminal, and what a log shows."""

from __future__ import annotations

import re

import pytest

from caveat import terminal
from caveat.problems import ProblemError
from caveat_spec.artifacts import Inspection
from caveat_spec.gate import decide
from caveat_spec.problem import Fault, ProblemDetails
from tests.api_spec import handmade

LINE = {"concept": "mark", "target": "carton", "must": "not_matter"}
LAYER = {"operator": "Relu", "shape": ["n", 8, None], "depth": 1}
INSPECTION = Inspection.model_validate(
    {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 3]}],
        "outputs": [{"name": "y[0]", "dtype": "float32", "shape": []}],
        "layers": [
            LAYER | {"tensor": "good", "auditable": True, "reason": None, "auto": True},
            LAYER | {"tensor": "[bad]", "auditable": False, "reason": "Mod has no gradient", "auto": False},
        ],
        "target": "the first class",
        "warnings": ["a warning"],
    }
)


def failing() -> object:
    report = handmade.report(handmade.row(in_sd=1.0, interval=(0.8, 1.2), p=0.001))
    audit = type(report.audit).model_validate(report.audit.model_dump() | {"gate": [LINE]})
    return report.model_copy(
        update={"audit": audit, "verdict": decide(report, audit.gate), "warnings": ["[a] warning"]}
    )


def test_a_log_gets_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_verdict(failing())
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Warning: [a] warning"
    assert said[1].startswith("Fails: ")
    assert re.fullmatch(r"fails +mark must not matter to carton +influential", said[2])
    assert said[3].startswith("✗ mark must not matter to carton: By association, at block ")


def test_an_audit_without_a_gate_shows_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_verdict(handmade.report(handmade.row(in_sd=1.0, interval=(0.8, 1.2), p=0.001)))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "No verdict: No gate was set, so the figures below stand without a verdict."
    assert re.search(r"effect, with its interval +p$", said[1])
    assert re.fullmatch(r"mark → carton +block +\+1\.00 sd \(\+0\.80 to \+1\.20\); .+", said[2])


def test_a_terminal_gets_a_table_and_colours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal.show_verdict(failing())
    coloured = capsys.readouterr().out
    assert "\x1b[31m\x1b[1mFails\x1b[0m" in coloured
    assert "line of the gate" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    terminal.show_verdict(failing())
    plain = capsys.readouterr().out
    assert "\x1b" not in plain
    assert plain == re.sub(r"\x1b\[\d+m", "", coloured)


@pytest.mark.parametrize("colour", [False, True])
def test_what_moved_is_a_table_of_a_dozen_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, colour: bool
) -> None:
    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "120")
    layers = [f"layer{number}" for number in range(15)]
    before = handmade.report(*(handmade.row(layer=layer) for layer in layers))
    now = handmade.report(
        handmade.row(layer="layer3", in_sd=0.9, interval=(0.8, 1.0)), *before.tests[4:], *before.tests[:3]
    )
    terminal.show_diff(now, before)
    said = capsys.readouterr().out
    assert "Since the baseline 1 of 15 figures moved beyond noise." in said
    assert re.search(r"mark → carton at layer3\W.*\+0\.900.*±0\.112.*beyond noise", said)
    assert said.count("within noise") == 11
    assert "… and 3 more, in --markdown." in said


def test_progress_is_one_line_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.progress() as watch:
        for stage, share in (("loading", 0.0), ("collecting", 0.06), ("collecting", 0.3), ("testing", 0.6)):
            watch(stage, share)
    assert capsys.readouterr().err.splitlines() == ["  0% loading", "  6% collecting", " 60% testing"]


def test_a_problem_has_its_places_and_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    fault = Fault(pointer="/model", detail="[it] is torn")
    terminal.show_problem(ProblemError(ProblemDetails.of("x", 422, "It is wrong.", "Mend it.", [fault, fault])))
    assert capsys.readouterr().err == "Error: It is wrong.\n  /model: [it] is torn\nRemedy: Mend it.\n"


def test_a_single_fault_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    fault = Fault(pointer="/model", detail="It is torn.")
    terminal.show_problem(ProblemError(ProblemDetails.of("x", 422, "It is torn.", "Mend it.", [fault])))
    assert capsys.readouterr().err == "Error: /model: It is torn.\nRemedy: Mend it.\n"


@pytest.mark.parametrize("colour", [False, True])
def test_layers_are_listed_with_reasons(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, colour: bool
) -> None:
    if colour:
        monkeypatch.setenv("FORCE_COLOR", "1")
    terminal.show_inspection(INSPECTION, every=True)
    said = capsys.readouterr().out
    assert "output  y[0]  float32 scalar" in said
    assert re.search(r"\[bad\].*Mod has no gradient", said)
    assert re.search(r"auto.*good.*n×8×\?", said)
    terminal.show_inspection(INSPECTION, every=False)
    said = capsys.readouterr().out
    assert "[bad]" not in said
    assert "picks 1. See the others, and why not, with --all." in " ".join(said.split())
