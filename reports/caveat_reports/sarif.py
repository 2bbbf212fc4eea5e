"""A report as SARIF 2.1.0: a result for each line of the gate that does not hold or could not be settled.

Code scanning shows every result as an alert, whatever its kind; so lines that hold are counted in the run's
properties, and a line that could not be settled is a warning, where SARIF's kind `open` would hide it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import metadata
from typing import Any
from urllib.parse import quote

from caveat_reports.canonical import digest
from caveat_reports.summary import Line, explanation, lines
from caveat_spec.report import Report
from caveat_spec.sanitize import document, json_text

Place = tuple[int, int]
"""A line and a column of the audit file, both from 1."""

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
TCAV = "https://arxiv.org/abs/1711.11279"
EXPECTED_DIRECTION = (
    "Look at the report: does the concept's direction show the concept, on examples that a person knows?"
)
MORE_EXAMPLES = "If it could not be settled, `caveat plan` says how many examples the line needs."
PAIRS = "Examples in matched pairs (`pairs_with`) let the change itself be measured, which decides."


@dataclass(frozen=True)
class Rule:
    """A kind of line of the gate, as code scanning shows it beside each of its alerts."""

    name: str
    short: str
    full: str
    steps: tuple[str, ...]
    """What to do about an alert."""
    source: str | None = None
    """Where the method was published."""

    def described(self, key: str) -> dict[str, Any]:
        """The rule in SARIF's form."""
        steps = "".join(f"- {step}\n" for step in self.steps)
        return {
            "id": key,
            "name": self.name,
            "shortDescription": {"text": self.short},
            "fullDescription": {"text": self.full},
            "help": {
                "text": " ".join((self.full, *self.steps)),
                "markdown": f"**{self.short}**\n\n{self.full}\n\n{steps}",
            },
            **({} if self.source is None else {"helpUri": self.source}),
            "defaultConfiguration": {"level": "error"},
            "properties": {"tags": ["fairness", "model-audit"]},
        }


RULES = {
    "concept/must-not-matter": Rule(
        "ConceptMustNotMatter",
        "A protected concept must not influence the target.",
        "Concept activation vectors (TCAV), a permutation test against random sets, and an equivalence bound; an "
        "intervention on the same examples where they come in pairs.",
        (
            EXPECTED_DIRECTION,
            "`caveat edit` takes a concept out of a model and audits it again; training without it is the other way.",
            PAIRS,
            MORE_EXAMPLES,
        ),
        TCAV,
    ),
    "concept/must-matter": Rule(
        "ConceptMustMatter",
        "A concept that the task needs must influence the target.",
        "Concept activation vectors (TCAV) and a permutation test against random sets; an intervention on the same "
        "examples where they come in pairs.",
        (EXPECTED_DIRECTION, "Check the target: its output, and the index of the class.", PAIRS, MORE_EXAMPLES),
        TCAV,
    ),
    "concept/must-not-grow": Rule(
        "ConceptMustNotGrow",
        "A concept must influence the target no more than in the baseline report.",
        "Effects, interventions and their intervals, compared with those of an earlier report on the same examples.",
        (
            "Compare the two versions: `caveat gate --baseline report.json --html report.html` shows what moved.",
            "If it could not be settled, give the earlier report with `--baseline`, made on the same examples.",
        ),
        TCAV,
    ),
    "group/metric": Rule(
        "GroupMetric",
        "Decisions must be alike between groups of people.",
        "A group metric, such as the ratio of selection rates, against its bound.",
        (
            "Read the table of groups: which group has the lowest rate, and how many people are in it?",
            "`given` in the group compares people who are alike in other columns.",
            "If it could not be settled, add people to the smallest groups.",
        ),
    ),
}


def home() -> str | None:
    """Where the distribution says that its documentation is, or its home."""
    named = {
        label.strip(): url.strip()
        for label, _, url in (one.partition(",") for one in metadata("caveat").get_all("Project-URL") or [])
    }
    return named.get("Documentation") or named.get("Homepage")


def render(report: Report, audit_file: str = "audit.yaml", places: Sequence[Place] = ()) -> str:
    """One run; `audit_file`, relative to the repository's root, is where alerts are shown, at the gate's `places`."""
    said, address = lines(report), home()
    found = {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "Caveat",
                        "version": report.engine.caveat,
                        **({} if address is None else {"informationUri": address}),
                    }
                },
                "columnKind": "unicodeCodePoints",
                "artifacts": _artifacts(report, audit_file),
                "invocations": [
                    {
                        "executionSuccessful": True,
                        "toolExecutionNotifications": [
                            {"level": "warning", "message": _message(warning)} for warning in report.warnings
                        ],
                    }
                ],
                "results": [_result(report, line, audit_file, places) for line in said if line.outcome != "pass"],
                "properties": {
                    "outcome": report.verdict.outcome or "none",
                    "summary": explanation(report),
                    "linesThatHold": sum(line.outcome == "pass" for line in said),
                    "reportDigest": digest(report),
                },
            }
        ],
    }
    clean = document(found)
    clean["runs"][0]["tool"]["driver"]["rules"] = [rule.described(key) for key, rule in RULES.items()]  # our own lines
    return json_text(json.dumps(clean, ensure_ascii=False, indent=2)) + "\n"


def _result(report: Report, line: Line, audit_file: str, places: Sequence[Place]) -> dict[str, Any]:
    rule = _rule(report, line)
    words = f"{line.subject}: {line.reason}"
    return {
        "ruleId": rule,
        "ruleIndex": list(RULES).index(rule),
        "kind": "fail",
        "level": "error" if line.outcome == "fail" else "warning",
        "message": _message(words if line.outcome == "fail" else f"Inconclusive: {words}"),
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(audit_file), "index": 0},
                    "region": _region(line, places),
                },
                "logicalLocations": [{"fullyQualifiedName": f"/gate/{line.number - 1}", "kind": "member"}],
            }
        ],
        "partialFingerprints": {"caveatGateLine/v1": fingerprint(line)},
        "properties": {"outcome": line.outcome, "finding": line.finding},
    }


def _message(text: str) -> dict[str, str]:
    """A message without links, which SARIF would read in `[words](address)`."""
    return {"text": text.replace("](", "] (")}


def place_of(line: Line, places: Sequence[Place]) -> Place:
    """Where a line of the gate stands in the audit file; at its beginning where that is not known."""
    return places[line.number - 1] if line.number <= len(places) else (1, 1)


def _region(line: Line, places: Sequence[Place]) -> dict[str, int]:
    row, column = place_of(line, places)
    return {"startLine": row, "startColumn": column} if places else {"startLine": row}


def fingerprint(line: Line) -> str:
    """What makes a line of the gate the same line in the next run: its words, not its figures nor its place."""
    return sha256(line.subject.encode()).hexdigest()


def _rule(report: Report, line: Line) -> str:
    asked = report.audit.gate[line.number - 1]
    must = getattr(asked, "must", None)
    return "group/metric" if must is None else f"concept/must-{must.replace('_', '-')}"


def _artifacts(report: Report, audit_file: str) -> list[dict[str, Any]]:
    """The audit file, then the model and the example sets by digest."""
    inputs = [("model", report.audit.model), *((one.name, one.source) for one in report.plan.examples)]
    return [{"location": {"uri": quote(audit_file)}, "roles": ["analysisTarget"]}] + [
        {
            "description": {"text": name},
            "roles": ["attachment"],
            "hashes": {"sha-256": source.removeprefix("sha256:")},
        }
        for name, source in inputs
        if source.startswith("sha256:")
    ]
