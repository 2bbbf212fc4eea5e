"""Studies as the API and the console show them: how far each is, the forms of its raters, and what it came to."""

from __future__ import annotations

from flask import Response

from caveat_reports.study import findings, forms
from caveat_reports.study.wording import worded
from caveat_service.errors import not_found, refuse
from caveat_service.state import app_context, tenant
from caveat_spec.openapi import PAGE_TYPE, PageQuery
from caveat_spec.problem import ProblemDetails
from caveat_spec.studies import StudyRecord
from caveat_spec.study import Material, Study, StudyFindings
from caveat_storage import job_records, studies
from caveat_storage.job_records import Record
from caveat_storage.job_state import ENDED
from caveat_storage.studies import StudyRow

POLICY = forms.policy(served=False)
"""Of forms to print and of findings: they run no script and load nothing."""


def find(study_id: str) -> StudyRow:
    """A study of the tenant that sends the request."""
    row = studies.get(app_context().database, tenant(), study_id)
    if row is None:
        raise not_found("study")
    return row


def page_of(query: PageQuery) -> tuple[list[StudyRecord], str | None]:
    """A page of the tenant's studies, newest first, and the token of the next page."""
    found = studies.page(app_context().database, tenant(), limit=query.limit + 1, before=query.page_token)
    shown = found[: query.limit]
    return records(shown), shown[-1].id if len(found) > query.limit else None


def record(row: StudyRow) -> StudyRecord:
    """What the API says about a study."""
    return records([row])[0]


def records(rows: list[StudyRow]) -> list[StudyRecord]:
    """What the API says about studies, counted together."""
    counted = studies.count(app_context().database, [row.id for row in rows])
    found = []
    for row in rows:
        job = _analysis(row)
        found.append(
            StudyRecord(
                **row.about,
                id=row.id,
                audit=row.audit_id,
                study=row.protocol,
                state="open" if row.closed_at is None else "closed",
                answered=counted[row.id].answered,
                taken=counted[row.id].taken,
                created_at=row.created_at,
                closed_at=row.closed_at,
                analysis=None if job is None else job.state,
                problem=None if job is None or job.problem is None else ProblemDetails.model_validate(job.problem),
            )
        )
    return found


def _analysis(row: StudyRow) -> Record | None:
    """The job that analyses a study, once there is one."""
    if row.analysis_id is None:
        return None
    return job_records.get(app_context().database, row.tenant, "findings", row.analysis_id)


def protocol_of(row: StudyRow) -> Study:
    """What a study was made as."""
    return Study.model_validate_json(app_context().blobs.read(row.protocol))


def form_page(row: StudyRow, rater: int) -> Response:
    """The form of a rater, to print."""
    study = protocol_of(row)
    sheet = study.sheet(rater)
    if sheet is None:
        raise refuse(
            "not-found", 404, "There is no such rater.", f"The raters of this study are 1 to {len(study.sheets)}."
        )
    material = Material.model_validate_json(app_context().blobs.read(row.material))
    return _page(forms.printable(study, material, sheet))


def findings_page(row: StudyRow) -> Response:
    """What the ratings of a closed study came to, for a person."""
    return _page(findings.render(*findings_of(row)))


def findings_of(row: StudyRow) -> tuple[Study, StudyFindings]:
    """A closed study and what its ratings came to, once they are analysed."""
    if row.closed_at is None:
        raise refuse(
            "study-open", 409, "This study still takes answers. It is analysed once, when it is closed: p-values that "
            "somebody looks at until they are small are none.",
            f"Close it with POST /v1/studies/{row.id}:close; /v1/studies/{row.id}/ratings has its answers.",
        )  # fmt: skip
    job = _analysis(row)
    if job is None or job.state in ("failed", "cancelled"):
        raise refuse(
            "not-analysed", 409, "The analysis of this study did not come to its end.",
            f"Repeat POST /v1/studies/{row.id}:close; its `problem` says what went wrong.",
        )  # fmt: skip
    if job.state not in ENDED:
        waits = refuse("not-analysed-yet", 409, "This study is being analysed.", "Ask again in a moment.")
        waits.headers["Retry-After"] = "1"
        raise waits
    study = protocol_of(row)
    return study, worded(study, StudyFindings.model_validate(job.result))


def _page(text: str) -> Response:
    return Response(text, content_type=f"{PAGE_TYPE}; charset=utf-8", headers={"Content-Security-Policy": POLICY})
