"""Studies with people: make one of a report, follow it, end it, and read its answers and what they came to."""

from __future__ import annotations

import re
from io import BytesIO

from flask import Blueprint, Response

from caveat_reports.canonical import canonical
from caveat_reports.study.dealing import Design, UnfitReportError, plan, tests_of
from caveat_reports.study.table import ratings_csv
from caveat_service import blobs, idempotency, jobs, limits, study_records
from caveat_service.contract import accepted, answer, conditional_response, serves, unchanging
from caveat_service.errors import HTTPProblem, not_found, refuse
from caveat_service.state import app_context, principal, tenant
from caveat_spec.base import Document, digest_of_bytes
from caveat_spec.openapi import CSV_TYPE, PAGE_TYPE, KeyHeaders, PageQuery
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Report
from caveat_spec.studies import (
    MOST_STUDIES,
    KeptRating,
    NewStudy,
    RaterLink,
    StudyLinks,
    StudyPage,
    StudyRatings,
)
from caveat_spec.study import NewFindings, Rating
from caveat_storage import studies
from caveat_storage.job_records import Key
from caveat_storage.job_state import FullError, KeyReusedError
from caveat_storage.studies import BusyError, Made, StudyRow, TooManyError
from caveat_telemetry import traces

blueprint = Blueprint("studies", __name__)

FIELDS = {"target": "targets", "map": "maps"}
"""Options of `caveat study make` whose field has another name."""


@serves(blueprint, "create_study")
def create_study(body: NewStudy, headers: KeyHeaders) -> Response:
    """Deals the report's maps out to raters, stores that, and returns the links."""
    key = idempotency.key_of(headers, body)
    try:
        made = None if key is None else studies.made_before(app_context().database, tenant(), key)
        made = made or _make(body, key)
    except KeyReusedError as fault:
        raise idempotency.reused() from fault
    links = [RaterLink(rater=at, path=f"/rate/{token}") for at, token in enumerate(made.tokens, 1)]
    where = {"Location": f"/v1/studies/{made.study.id}"}
    return answer(StudyLinks(study=study_records.record(made.study), links=links), 201, where)


def _make(body: NewStudy, key: Key | None) -> Made:
    _, digest = jobs.reported(body.audit)
    report = Report.model_validate_json(app_context().blobs.read(digest))
    asked = body.model_dump(exclude={"audit"})
    try:
        study, material = plan(report, Design(**asked))
    except UnfitReportError as unfit:
        raise HTTPProblem(_by_fields(unfit.problem)) from unfit
    about = {
        "report": study.report,
        "model": study.model,
        "concept": study.concept,
        "classes": [one.name for one in study.classes],
        "maps": [one.name for one in study.maps],
        "seed": study.seed,
        "raters": len(study.sheets),
        "tasks": sum(len(sheet.tasks) for sheet in study.sheets),
    }
    tests = [one.model_dump(mode="json") for one in tests_of(report, study)]
    stored = _stored(study), _stored(material)
    try:
        return studies.create(
            app_context().database, tenant(), body.audit, stored, about, tests, key=key, by=principal()
        )
    except TooManyError:
        raise refuse(
            "too-many-studies", 409, f"You have {MOST_STUDIES} studies, which is the limit.",
            "Delete one whose answers you have.",
        ) from None  # fmt: skip


@serves(blueprint, "list_studies")
def list_studies(query: PageQuery) -> Response:
    """Returns a page of studies and the token of the next page."""
    shown, more = study_records.page_of(query)
    return answer(StudyPage(studies=shown, next_page_token=more))


@serves(blueprint, "get_study")
def get_study(study_id: str) -> Response:
    """Returns how far a study is."""
    return conditional_response(answer(study_records.record(study_records.find(study_id))))


@serves(blueprint, "delete_study")
def delete_study(study_id: str) -> Response:
    """Deletes the study; its entries in the audit log stay without their details."""
    try:
        gone = studies.remove(app_context().database, tenant(), study_id, by=principal())
    except BusyError:
        raise refuse(
            "study-analysed", 409, "A worker analyses this study just now.", "Delete it in a moment."
        ) from None
    if not gone:
        raise not_found("study")
    return Response(status=204)


@serves(blueprint, "get_protocol")
def get_protocol(study_id: str) -> Response:
    """Returns the protocol, byte for byte as it was made."""
    row = study_records.find(study_id)
    response = Response(app_context().blobs.read(row.protocol), content_type="application/json")
    return conditional_response(unchanging(response, row.protocol.partition(":")[2]))


@serves(blueprint, "get_form")
def get_form(study_id: str, rater: str) -> Response:
    """Returns the form of a rater, to print."""
    row = study_records.find(study_id)
    version = f"{row.protocol.partition(':')[2]}-{rater}"
    return conditional_response(unchanging(study_records.form_page(row, int(rater)), version))


@serves(blueprint, "get_ratings")
def get_ratings(study_id: str) -> Response:
    """Returns the answers that there are."""
    row = study_records.find(study_id)
    media_type, study = accepted("This", ("application/json", CSV_TYPE)), study_records.protocol_of(row)
    kept = [
        KeptRating(
            **one.answer.model_dump(),
            rater=one.rater,
            task=one.task,
            of=study.sheets[one.rater - 1].tasks[one.task - 1].of,
            map=study.sheets[one.rater - 1].tasks[one.task - 1].map,
            at=one.at,
        )
        for one in studies.answers_of(app_context().database, study_id)
    ]
    if media_type == CSV_TYPE:
        response = Response(ratings_csv(study, kept), content_type=f"{CSV_TYPE}; charset=utf-8")
        response.headers["Content-Disposition"] = f'attachment; filename="{study_id}.csv"'
    else:
        response = answer(StudyRatings(study=row.protocol, ratings=kept))
    response.headers["Vary"] = "Accept"
    return conditional_response(response)


@serves(blueprint, "close_study")
def close_study(study_id: str) -> Response:
    """Ends the study and has it analysed, once; an analysis that failed is made again."""
    row = studies.close(app_context().database, tenant(), study_id, by=principal())
    if row is None:
        raise not_found("study")
    shown = study_records.record(_analysed(row))
    return answer(shown, 202, {"Location": f"/v1/studies/{study_id}", "Retry-After": "1"})


@serves(blueprint, "get_findings")
def get_findings(study_id: str) -> Response:
    """Returns what the ratings came to, once they are analysed."""
    media_type, row = accepted("This", ("application/json", PAGE_TYPE)), study_records.find(study_id)
    as_page = media_type == PAGE_TYPE
    response = study_records.findings_page(row) if as_page else answer(study_records.findings_of(row)[1])
    response.headers["Vary"] = "Accept"
    return conditional_response(unchanging(response, f"{row.analysis_id}-{media_type.replace('/', '-')}"))


def _by_fields(problem: ProblemDetails) -> ProblemDetails:
    """The problem in the words of the API, where a person reads options of the command."""

    def field(found: re.Match[str]) -> str:
        return f"`{FIELDS.get(found[1], found[1].replace('-', '_'))}`"

    said = {name: re.sub(r"--([a-z-]+)", field, getattr(problem, name)) for name in ("detail", "remedy")}
    return problem.model_copy(update=said)


def _stored(document: Document) -> str:
    """Stores a document among the tenant's uploads, within its quota; returns its digest."""
    content = canonical(document)
    digest = digest_of_bytes(content)
    limits.require_room(len(content), digest)
    blobs.own_blobs().put(BytesIO(content), digest)
    return digest


def _analysed(row: StudyRow) -> StudyRow:
    """Gives the answers of a closed study to the workers, once; again where that came to nothing."""
    database = app_context().database
    ratings = [
        Rating(**one.answer.model_dump(), rater=one.rater, task=one.task)
        for one in studies.answers_of(database, row.id)
    ]
    new = NewFindings.model_validate(
        {"study": study_records.protocol_of(row), "digest": row.protocol, "ratings": ratings, "tests": row.tests}
    )
    try:
        analysis = studies.analyse(
            database, row.tenant, row.id, new.model_dump(mode="json"), by=principal(),
            traceparent=traces.carried(), most_waiting=app_context().settings.tenant_waiting,
        )  # fmt: skip
    except FullError:
        raise limits.too_many_wait() from None
    if analysis is None:
        raise not_found("study")
    if analysis.job is not None:
        app_context().publisher.publish(analysis.job.id, analysis.job.queue)
    return analysis.study
