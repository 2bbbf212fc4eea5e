"""A report as GitLab's code quality: an issue for each line of the gate that does not hold or could not be settled."""

from __future__ import annotations

import json
from collections.abc import Sequence

from caveat_reports.sarif import Place, fingerprint, place_of
from caveat_reports.summary import lines
from caveat_spec.report import Report
from caveat_spec.sanitize import document, json_text


def render(report: Report, audit_file: str = "audit.yaml", places: Sequence[Place] = ()) -> str:
    """A list of issues; `audit_file`, relative to the repository's root, is where they are shown, at `places`."""
    issues = [
        {
            "type": "issue",
            "check_name": f"caveat/{line.outcome}",
            "description": f"{line.subject}: {line.reason}",
            "categories": ["Bug Risk"],
            "severity": "critical" if line.outcome == "fail" else "major",
            "fingerprint": fingerprint(line),
            "location": {"path": audit_file, "lines": {"begin": place_of(line, places)[0]}},
        }
        for line in lines(report)
        if line.outcome != "pass"
    ]
    return json_text(json.dumps(document(issues), ensure_ascii=False, indent=2)) + "\n"
