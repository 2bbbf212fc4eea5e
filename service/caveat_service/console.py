"""The console: a tenant's audits, reports, versions, studies and registrations as pages; it reads and changes nothing.

Everything goes through the same tables as the API, by the tenant of the session: what another tenant has is not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, g, redirect, request
from pydantic import TypeAdapter, ValidationError

from caveat_reports import console as pages
from caveat_reports.console import Listing, Measured, ShownAudit, Viewer
from caveat_service import auth, jobs, reports, sessions, study_records
from caveat_service.errors import PROBLEM_TYPE, HTTPProblem, not_found, refuse
from caveat_service.issuer_keys import IssuerAwayError
from caveat_service.oidc import SignInRefused
from caveat_service.state import app_context, tenant
from caveat_spec.audit import Audit
from caveat_spec.base import JobId
from caveat_spec.jobs import REQUESTS, JobKind, sources
from caveat_spec.openapi import JobsQuery, PageQuery
from caveat_spec.problem import ProblemDetails
from caveat_spec.report import Report
from caveat_spec.source_urls import addressed_digest
from caveat_storage import job_records, keys, webhooks
from caveat_storage.job_records import Record

if TYPE_CHECKING:
    from caveat_service.oidc_sign_in import OIDCSignIn

blueprint = Blueprint("console", __name__)

PAGE = 25
SEARCHED = 200
"""Newest audits of a tenant that are searched for those that ask the same question."""
ID: TypeAdapter[str] = TypeAdapter(JobId)
LONGEST_FORM = 8192
"""Bytes of a form."""
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@blueprint.after_request
def _guarded(response: Response) -> Response:
    if response.mimetype == PROBLEM_TYPE:
        response = _as_page(response)
    response.headers.setdefault("Content-Security-Policy", pages.policy())
    response.headers.update(HEADERS)
    return response


def _as_page(answered: Response) -> Response:
    """A page in the place of problem details, whatever raised them; without a session the form to sign in."""
    if answered.status_code == 401:
        sessions.remember_path()
        return redirect("/sign-in", 303)  # type: ignore[return-value]
    problem = ProblemDetails.model_validate_json(answered.data)
    answered.data = pages.fault(_viewer(), problem.title, problem.detail, problem.remedy or "")
    answered.mimetype = "text/html"
    return answered


@blueprint.get("/")
def audits() -> Response:
    """The tenant's audits, newest first."""
    query = _query()
    records, more = jobs.page_of("audit", query)
    older = None if more is None else f"/?page_token={more}{f'&state={query.state}' if query.state else ''}"
    return Response(pages.audits(_viewer(), [_shown(one) for one in records], state=query.state, more=older))


@blueprint.get("/audits/<id:job_id>")
def audit(job_id: str) -> Response:
    """One audit."""
    record = jobs.find("audit", job_id)
    return Response(pages.audit(_viewer(), _shown(record), _report(record)))


@blueprint.get("/audits/<id:job_id>/report")
def report(job_id: str) -> Response:
    """Its report, as the page that `--html` writes."""
    record = jobs.find("audit", job_id)
    if record.report_digest is None:
        raise not_found("report")
    return reports.as_page(app_context().blobs.read(record.report_digest))


@blueprint.get("/audits/<id:job_id>/history")
def history(job_id: str) -> Response:
    """The audits of the same question, with the figures that they have in common."""
    record = jobs.find("audit", job_id)
    versions = [(_shown(one), _measured(str(one.report_digest))) for one in _alike(record)]
    return Response(pages.history(_viewer(), _shown(record), versions))


@blueprint.get("/compare")
def compare() -> Response:
    """Two audits side by side."""
    both = []
    for name in ("now", "before"):
        record = jobs.find("audit", _id(name))
        found = _report(record)
        if found is None:
            raise not_found("report")
        both.append((_shown(record), found))
    return Response(pages.comparison(_viewer(), both[0], both[1]))


@blueprint.get("/models")
def models() -> Response:
    """The registered models."""
    return _registered("model", "Models", ("Name", "State", "Digest", "Registered"))


@blueprint.get("/examples")
def examples() -> Response:
    """The registered example sets."""
    return _registered("examples", "Example sets", ("Name", "State", "Digest", "Registered"))


@blueprint.get("/studies")
def studies() -> Response:
    """The tenant's studies with people, newest first."""
    query = _query()
    shown, more = study_records.page_of(PageQuery(limit=query.limit, page_token=query.page_token))
    return Response(pages.studies(_viewer(), shown, None if more is None else f"/studies?page_token={more}"))


@blueprint.get("/studies/<id:study_id>")
def study(study_id: str) -> Response:
    """One study."""
    return Response(pages.study(_viewer(), study_records.record(study_records.find(study_id))))


@blueprint.get("/studies/<id:study_id>/findings")
def findings(study_id: str) -> Response:
    """What it came to, once it is closed and analysed."""
    return study_records.findings_page(study_records.find(study_id))


@blueprint.get("/studies/<id:study_id>/forms/<int:rater>")
def form(study_id: str, rater: int) -> Response:
    """The form of one rater, to print."""
    return study_records.form_page(study_records.find(study_id), rater)


@blueprint.get("/access")
def access() -> Response:
    """Keys and webhooks, for those who may see them."""
    if not _viewer().admin:
        raise refuse(
            "forbidden",
            403,
            "Your key may not see keys and webhooks.",
            "Ask an operator for a key with the scope 'admin'.",
        )
    issued = [
        (one.name, one.id, " ".join(one.scopes), one.state, f"{one.created_at:%Y-%m-%d}", _day(one.expires_at))
        for one in keys.issued(app_context().database, tenant())
    ]
    sent = [
        (one.url, " ".join(one.events), "sends" if one.disabled_at is None else f"stopped {one.disabled_at:%Y-%m-%d}")
        for one in webhooks.registered(app_context().database, tenant())
    ]
    return Response(
        pages.listing(
            _viewer(),
            [
                Listing("Keys", ("Name", "Id", "Scopes", "State", "Issued", "Expires"), issued, "There are no keys."),
                Listing("Webhooks", ("URL", "Events", "State"), sent, "There are no webhooks."),
            ],
            "Keys and webhooks",
        )
    )


@blueprint.get("/sign-in")
def sign_in_form() -> Response:
    """The form that takes a key, and the way to the issuer."""
    if app_context().settings.auth == "off" or sessions.holder() is not None:
        return redirect("/", 303)  # type: ignore[return-value]
    return _sign_in_page()


@blueprint.post("/sign-in")
def sign_in() -> Response:
    """Signs a key in; a wrong one counts like everywhere."""
    request.max_content_length = LONGEST_FORM
    sessions.require_token()
    try:
        key_id = auth.key_id_of(request.form.get("key", "").strip())
    except HTTPProblem as fault:
        return _sign_in_page(fault)
    after = sessions.next_path()
    sessions.begin(key_id)
    return redirect(after, 303)  # type: ignore[return-value]


@blueprint.get("/sign-in/oidc")
def begin_oidc() -> Response:
    """Sends the browser to the issuer."""
    try:
        place, pending = _oidc().begin()
    except IssuerAwayError:
        return _sign_in_page(_issuer_away())
    sessions.expect(pending)
    return redirect(place, 303)  # type: ignore[return-value]


@blueprint.get("/sign-in/oidc/callback")
def end_oidc() -> Response:
    """Signs in whom the issuer names; an answer is taken once, and only in the browser that asked."""
    pending = sessions.expected()
    try:
        if pending is None:
            raise SignInRefused(403, "No sign-in is under way in this browser, or it took longer than ten minutes.")
        holder = _oidc().complete(request.query_string.decode("ascii", "replace"), pending)
    except SignInRefused as fault:
        if fault.status == 401:
            auth.count_failure()
        return _sign_in_page(fault)
    except IssuerAwayError:
        return _sign_in_page(_issuer_away())
    after = sessions.next_path()
    sessions.begin_oidc(holder)
    return redirect(after, 303)  # type: ignore[return-value]


def _oidc() -> OIDCSignIn:
    """The way to sign in with the issuer; where there is none, its pages are not there either."""
    found = app_context().sign_in
    if found is None:
        raise not_found("page")
    return found


def _issuer_away() -> SignInRefused:
    return SignInRefused(503, "The issuer does not answer as it should.", "Try again in a moment; keys work meanwhile.")


def _sign_in_page(fault: HTTPProblem | SignInRefused | None = None) -> Response:
    """The form, with what was wrong."""
    issuer = app_context().sign_in
    said, status, headers = None, 200, dict[str, str]()
    if isinstance(fault, HTTPProblem):
        said, status, headers = f"{fault.problem.detail} {fault.problem.remedy}", fault.problem.status, fault.headers
    elif fault is not None:
        said, status, headers = str(fault), fault.status, {"Retry-After": "5"} if fault.status == 503 else {}
    page = pages.sign_in(_viewer(), said, issuer=None if issuer is None else issuer.name)
    return Response(page, status, {**headers, **({"WWW-Authenticate": "Session"} if fault else {})})


@blueprint.post("/sign-out")
def sign_out() -> Response:
    """Ends the session."""
    request.max_content_length = LONGEST_FORM
    sessions.require_token()
    sessions.end()
    return redirect("/sign-in", 303)  # type: ignore[return-value]


def _viewer() -> Viewer:
    if app_context().settings.auth == "off":
        return Viewer(signed_in=True, admin=True)
    known = "tenant" in g
    token = sessions.token() if sessions.are_possible() else ""
    return Viewer(g.tenant if known else None, known, "admin" in g.get("scopes", ()), token)


def _id(name: str) -> str:
    """The id in a query; PostgreSQL does not even look for some texts that are none."""
    try:
        return ID.validate_python(request.args.get(name))
    except ValidationError:
        raise not_found("audit") from None


def _query() -> JobsQuery:
    """State and page; a query that is none shows the first page."""
    given = {name: value for name, value in request.args.items() if name in ("state", "page_token") and value}
    try:
        return JobsQuery.model_validate({"limit": str(PAGE), **given})
    except ValidationError:
        raise refuse(
            "invalid", 422, "There is no such page.", "Follow the links of the console; `state` is one of its list."
        ) from None


def _registered(kind: JobKind, title: str, head: tuple[str, ...]) -> Response:
    records, more = jobs.page_of(kind, _query())
    rows = [(one.name or one.id, one.state, _digest(kind, one), f"{one.created_at:%Y-%m-%d %H:%M}") for one in records]
    older = None if more is None else f"{request.path}?page_token={more}"
    empty = f"No {title.lower()} are registered. Audits may name uploaded bytes without that."
    return Response(pages.listing(_viewer(), [Listing(title, head, rows, empty, older)], title))


def _digest(kind: JobKind, record: Record) -> str:
    """The digest of its first source: of the model, or of the examples."""
    request = REQUESTS[kind].model_validate(record.payload)
    return addressed_digest(next(iter(sources(request).values())))


def _shown(record: Record) -> ShownAudit:
    about = record.payload.get("about") or {}
    problem = record.problem or {}
    said = " ".join(filter(None, (problem.get("detail"), problem.get("remedy"))))
    model = addressed_digest(record.payload["model"])
    return ShownAudit(
        id=record.id,
        title=about.get("title") or f"Audit {record.id[-6:]}",
        model=model,
        state=record.state,
        stage=record.stage,
        progress=record.progress,
        outcome=(record.result or {}).get("outcome"),
        at=record.created_at,
        asked=len(record.payload.get("gate", ())),
        problem=said or None,
    )


def _report(record: Record) -> Report | None:
    if record.report_digest is None:
        return None
    return Report.model_validate_json(app_context().blobs.read(record.report_digest))


def _alike(record: Record) -> Sequence[Record]:
    """Audits that ended with a report and ask what this one asks, of any model; the oldest first."""
    wanted = _question(record)
    newest = job_records.page(app_context().database, tenant(), "audit", limit=SEARCHED, state="succeeded")
    found = (one for one in newest if one.report_digest is not None and _question(one) == wanted)
    return list(islice(found, pages.MOST_VERSIONS))[::-1]


def _question(record: Record) -> object:
    """What an audit asks whatever its model: what it is called, or else its examples, concepts, targets and groups."""
    title = (record.payload.get("about") or {}).get("title")
    if title:
        return title
    audit = Audit(**record.payload)
    return audit.examples, audit.concepts, audit.targets, audit.groups


def _measured(digest: str) -> Measured:
    """The figures of a report; reports never change, so they are read once."""
    return _figures(app_context().blobs, digest)


@lru_cache(maxsize=2000)
def _figures(blobs: Any, digest: str) -> Measured:
    return pages.measured(Report.model_validate_json(blobs.read(digest)))


def _day(moment: Any) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d}"
