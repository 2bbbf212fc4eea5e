"""Studies with people: their raters, the answers that each gives once, their end, and their deletion.

An answer is written once and never changed: no function here does, and in PostgreSQL no role may. Each is an entry of
its tenant's audit log in the same transaction, and so is the digest of all answers when a study is closed. A closed
study takes none, and is analysed once, so that nobody looks at a p-value until it is small.

The secrets of links are stored nowhere. Those of a request with an `Idempotency-Key` are made of the key, of which the
hash is stored, and of a salt, so that whoever repeats the request gets the same links.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from caveat_spec.artifacts import State
from caveat_spec.studies import MOST_STUDIES
from caveat_spec.study import Answer
from caveat_storage import audit_log, hash_chain, job_state
from caveat_storage.job_records import ANONYMOUS, Database, Key, Record, new_id, now, take_turn
from caveat_storage.job_state import KeyReusedError
from caveat_storage.tables import answers, blobs, jobs, log, raters, studies

Kept = Literal["new", "same", "other", "closed"]
"""What came of an answer: it is kept now, it was kept before, another one was, or the study is closed."""
LOGGED = ("create_study", "answer_study", "close_study")
"""Actions on studies in the audit log."""
TOKEN_BYTES = 18


class TooManyError(Exception):
    """The tenant has as many studies as it may."""


class BusyError(Exception):
    """The study is being analysed."""


@dataclass(frozen=True)
class StudyRow:
    """A study in the database."""

    id: str
    tenant: str
    audit_id: str
    protocol: str
    material: str
    about: dict[str, Any]
    tests: list[dict[str, Any]]
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    analysis_id: str | None


@dataclass(frozen=True)
class Made:
    """A study and the secrets that its raters' links end in, in their order."""

    study: StudyRow
    tokens: list[str]


@dataclass(frozen=True)
class Rater:
    """Whom a link belongs to."""

    study: StudyRow
    rater: int


@dataclass(frozen=True)
class AnswerRow:
    """One answer as it is kept."""

    rater: int
    task: int
    answer: Answer
    at: datetime


@dataclass(frozen=True)
class Analysis:
    """A closed study, and the job that was submitted for it now, if any was."""

    study: StudyRow
    job: Record | None


@dataclass(frozen=True)
class Counted:
    """How far a study is."""

    answered: int
    """Raters with an answer."""
    taken: int


_ROW = [studies.c[name] for name in StudyRow.__dataclass_fields__]


def create(
    database: Database,
    tenant: str,
    audit_id: str,
    documents: tuple[str, str],
    about: dict[str, Any],
    tests: Sequence[dict[str, Any]],
    *,
    key: Key | None = None,
    by: str = ANONYMOUS,
) -> Made:
    """Stores a study, once for each idempotency key, with as many links as `about` has raters.

    `documents` are the digests of its protocol and of what raters see, whose bytes are stored.

    Raises:
        TooManyError: the tenant has `MOST_STUDIES` of them.
        KeyReusedError: the key was used with another request.
    """
    moment, study_id = now(), new_id()
    protocol, material = documents
    salt = secrets.token_hex(16)
    tokens = _tokens(secrets.token_hex(32) if key is None else key.key, salt, about["raters"])
    values: dict[str, Any] = {
        "id": study_id,
        "tenant": tenant,
        "audit_id": audit_id,
        "protocol": protocol,
        "material": material,
    }
    values |= {"about": about, "tests": list(tests), "created_at": moment, "updated_at": moment}
    repeated = {} if key is None else {"key_hash": _hashed(key.key), "fingerprint": key.fingerprint, "salt": salt}
    with database.writing() as connection:
        take_turn(connection, "studies", tenant)
        before = None if key is None else _made_before(connection, tenant, key)
        if before is not None:
            return before
        mine = select(func.count()).where(studies.c.tenant == tenant)
        if connection.execute(mine).scalar_one() >= MOST_STUDIES:
            raise TooManyError
        connection.execute(studies.insert(), values | repeated)
        people = [{"study_id": study_id, "rater": at, "token_hash": _hashed(one)} for at, one in enumerate(tokens, 1)]
        connection.execute(raters.insert(), people)
        said = {"audit": audit_id, "protocol": protocol, "material": material, "raters": len(tokens)}
        _log(connection, tenant, "create_study", study_id, by, **said)
    return Made(StudyRow(**values, closed_at=None, analysis_id=None), tokens)


def made_before(database: Database, tenant: str, key: Key) -> Made | None:
    """The study that an earlier request with an idempotency key made, and its links; None if there is none.

    Raises:
        KeyReusedError: that request was another one.
    """
    with database.reading() as connection:
        return _made_before(connection, tenant, key)


def get(database: Database, tenant: str, study_id: str) -> StudyRow | None:
    """A study of a tenant; None if there is none or it belongs to another tenant."""
    with database.reading() as connection:
        row = connection.execute(select(*_ROW).where(_mine(tenant, study_id))).one_or_none()
    return None if row is None else StudyRow(**row._mapping)


def page(database: Database, tenant: str, *, limit: int, before: str | None = None) -> list[StudyRow]:
    """Up to `limit` studies, newest first, after the study `before`."""
    wanted = select(*_ROW).where(studies.c.tenant == tenant).order_by(studies.c.id.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(studies.c.id < before)
    with database.reading() as connection:
        return [StudyRow(**row._mapping) for row in connection.execute(wanted)]


def rater_of(database: Database, token: str) -> Rater | None:
    """Whose link ends in a token; None if no study has it."""
    wanted = select(raters.c.rater, *_ROW).join(studies, studies.c.id == raters.c.study_id)
    with database.reading() as connection:
        row = connection.execute(wanted.where(raters.c.token_hash == _hashed(token))).one_or_none()
    return None if row is None else Rater(StudyRow(*row[1:]), row.rater)


def count(database: Database, study_ids: Sequence[str]) -> dict[str, Counted]:
    """How far studies are, by their ids."""
    wanted = select(answers.c.study_id, answers.c.rater, func.count().label("tasks"))
    wanted = wanted.where(answers.c.study_id.in_(study_ids)).group_by(answers.c.study_id, answers.c.rater)
    people, tasks = Counter[str](), Counter[str]()
    with database.reading() as connection:
        for row in connection.execute(wanted):
            people[row.study_id] += 1
            tasks[row.study_id] += row.tasks
    return {study_id: Counted(people[study_id], tasks[study_id]) for study_id in study_ids}


def answers_of(database: Database, study_id: str, rater: int | None = None) -> list[AnswerRow]:
    """The answers of a study, or of one of its raters, by rater and task."""
    with database.reading() as connection:
        return _answers(connection, study_id, rater)


def keep(database: Database, who: Rater, task: int, answer: Answer) -> Kept:
    """Keeps a rater's answer, once for each task, with an entry in the audit log."""
    study_id, tenant = who.study.id, who.study.tenant
    with database.writing() as connection:
        take_turn(connection, "study", study_id)
        study = connection.execute(select(studies.c.closed_at).where(_mine(tenant, study_id))).one_or_none()
        before = [one for one in _answers(connection, study_id, who.rater) if one.task == task]
        if before:
            return "same" if before[0].answer == answer else "other"
        if study is None or study.closed_at is not None:
            return "closed"
        moment, values = now(), answer.model_dump()
        connection.execute(
            answers.insert(), {"study_id": study_id, "rater": who.rater, "task": task, "at": moment} | values
        )
        connection.execute(studies.update().where(studies.c.id == study_id).values(updated_at=moment))
        _log(connection, tenant, "answer_study", study_id, f"rater:{who.rater}", task=task, **values)
    return "new"


def close(database: Database, tenant: str, study_id: str, *, by: str = ANONYMOUS) -> StudyRow | None:
    """Ends a study, so that it takes no more answers, and logs the digest of those that it has; None if there is none.

    Repeating it changes nothing.
    """
    with database.writing() as connection:
        take_turn(connection, "study", study_id)
        moment = now()
        open_ = and_(_mine(tenant, study_id), studies.c.closed_at.is_(None))
        closed = connection.execute(studies.update().where(open_).values(closed_at=moment, updated_at=moment)).rowcount
        row = connection.execute(select(*_ROW).where(_mine(tenant, study_id))).one_or_none()
        if closed:
            kept = _answers(connection, study_id)
            _log(connection, tenant, "close_study", study_id, by, answers=len(kept), ratings=digest_of_answers(kept))
    return None if row is None else StudyRow(**row._mapping)


def analyse(
    database: Database,
    tenant: str,
    study_id: str,
    payload: dict[str, Any],
    *,
    by: str = ANONYMOUS,
    traceparent: str | None = None,
    most_waiting: int = 0,
) -> Analysis | None:
    """Submits the job that analyses a closed study, unless one does or did; None if the study is gone.

    Job and study are written in one transaction, so that no two requests make two jobs and none belongs to no study. A
    job that came to nothing is replaced by another one.

    Raises:
        FullError: the tenant has `most_waiting` queued jobs already.
    """
    with database.writing() as connection:
        take_turn(connection, "study", study_id)
        row = connection.execute(select(*_ROW).where(_mine(tenant, study_id))).one_or_none()
        if row is None:
            return None
        study = StudyRow(**row._mapping)
        if _state(connection, study) not in (None, "failed", "cancelled"):
            return Analysis(study, None)
        job = job_state.add(
            connection, tenant, "findings", payload, name=study_id, by=by, traceparent=traceparent,
            most_waiting=most_waiting,
        )  # fmt: skip
        connection.execute(studies.update().where(studies.c.id == study_id).values(analysis_id=job.id))
    return Analysis(replace(study, analysis_id=job.id), job)


def remove(database: Database, tenant: str, study_id: str, *, by: str = ANONYMOUS) -> bool:
    """Deletes a study with its links, answers and analysis; returns False if the tenant has no such study.

    The audit log keeps its entries without their payloads.

    Raises:
        BusyError: a worker analyses it.
    """
    with database.writing() as connection:
        take_turn(connection, "study", study_id)
        row = connection.execute(select(*_ROW).where(_mine(tenant, study_id))).one_or_none()
        if row is None:
            return False
        _delete(connection, tenant, [StudyRow(**row._mapping)], by)
    return True


def forget(connection: Connection, tenant: str, *, before: datetime, by: str) -> int:
    """Deletes a tenant's studies in which nothing has happened since a time; returns their number."""
    old = select(*_ROW).where(studies.c.tenant == tenant, studies.c.updated_at < before).order_by(studies.c.id)
    found = [StudyRow(**row._mapping) for row in connection.execute(old.with_for_update())]
    busy = {row.id for row in found if _is_busy(connection, row)}
    gone = [row for row in found if row.id not in busy]
    if gone:
        _delete(connection, tenant, gone, by)
    return len(gone)


def in_use(tenant: str) -> ColumnElement[bool]:
    """Whether a tenant's upload belongs to one of its studies."""
    named = or_(studies.c.protocol == blobs.c.digest, studies.c.material == blobs.c.digest)
    return select(studies.c.id).where(studies.c.tenant == tenant, named).exists()


def digest_of_answers(kept: Sequence[AnswerRow]) -> str:
    """The SHA-256 of all answers in canonical JSON, as the entry of a closed study names it."""
    rows = [[one.rater, one.task, one.answer.image, one.answer.concept, one.answer.confidence] for one in kept]
    return hash_chain.digest(rows)


def _delete(connection: Connection, tenant: str, gone: Sequence[StudyRow], by: str) -> None:
    """Deletes studies, their analyses, what raters saw, and the payloads of their entries in the audit log."""
    if any(_is_busy(connection, row) for row in gone):
        raise BusyError
    ids = [row.id for row in gone]
    named = and_(jobs.c.tenant == tenant, jobs.c.kind == "findings", jobs.c.name.in_(ids))
    analyses = {row.analysis_id for row in gone if row.analysis_id is not None}
    analyses |= set(connection.execute(select(jobs.c.id).where(named)).scalars())
    documents = {digest for row in gone for digest in (row.protocol, row.material)}
    connection.execute(studies.delete().where(studies.c.id.in_(ids)))
    connection.execute(blobs.delete().where(blobs.c.tenant == tenant, blobs.c.digest.in_(documents), ~in_use(tenant)))
    job_state.erase(connection, sorted(analyses))
    about = and_(log.c.what.in_(LOGGED), log.c.payload["study"].as_string().in_(ids))
    audit_log.erase(connection, tenant, or_(about, log.c.job_id.in_(analyses)), {"by": by, "studies": ids})


def _is_busy(connection: Connection, row: StudyRow) -> bool:
    return _state(connection, row) in ("queued", "running")


def _state(connection: Connection, row: StudyRow) -> State | None:
    """Of the job that analyses a study; None where there is none."""
    if row.analysis_id is None:
        return None
    found: State | None = connection.execute(
        select(jobs.c.state).where(jobs.c.id == row.analysis_id)
    ).scalar_one_or_none()
    return found


def _made_before(connection: Connection, tenant: str, key: Key) -> Made | None:
    wanted = select(studies.c.fingerprint, studies.c.salt, *_ROW)
    row = connection.execute(
        wanted.where(studies.c.tenant == tenant, studies.c.key_hash == _hashed(key.key))
    ).one_or_none()
    if row is None:
        return None
    if row.fingerprint != key.fingerprint:
        raise KeyReusedError(key.key)
    study = StudyRow(*row[2:])
    return Made(study, _tokens(key.key, row.salt, study.about["raters"]))


def _tokens(secret: str, salt: str, number: int) -> list[str]:
    """What the links of a study end in; who knows neither secret nor salt finds none (HMAC of RFC 2104)."""
    codes = [hmac.digest(secret.encode(), f"{salt} {rater}".encode(), "sha256") for rater in range(1, number + 1)]
    return [urlsafe_b64encode(code[:TOKEN_BYTES]).decode() for code in codes]


def _answers(connection: Connection, study_id: str, rater: int | None = None) -> list[AnswerRow]:
    wanted = select(answers).where(answers.c.study_id == study_id).order_by(answers.c.rater, answers.c.task)
    if rater is not None:
        wanted = wanted.where(answers.c.rater == rater)
    return [
        AnswerRow(row.rater, row.task, Answer(image=row.image, concept=row.concept, confidence=row.confidence), row.at)
        for row in connection.execute(wanted)
    ]


def _mine(tenant: str, study_id: str) -> ColumnElement[bool]:
    return and_(studies.c.tenant == tenant, studies.c.id == study_id)


def _log(connection: Connection, tenant: str, what: str, study_id: str, by: str, **said: Any) -> None:
    audit_log.append(connection, tenant, what, {**said, "study": study_id, "by": by})


def _hashed(secret: str) -> str:
    """What links and keys are looked up by, so that neither the table nor the time of a look-up tells one."""
    return hashlib.sha256(secret.encode()).hexdigest()
