"""Audits through a real broker, and what one process makes of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select

from caveat_spec.audit import Audit
from caveat_storage.job_records import Database
from caveat_storage.tables import jobs
from caveat_worker.jobs.limits import Limits
from caveat_worker.jobs.supervisor import Finished, supervise
from tests.worker.live import Live


def alone(audit: Audit, places: Mapping[str, Path]) -> Finished:
    """What one supervised process writes, which divides nothing."""
    end = supervise(
        "audit",
        audit.model_dump(mode="json"),
        lambda digest, file: (file.write(places[digest].read_bytes()), None)[1],
        limits=Limits(threads=1),
        on_progress=lambda *_: None,
        should_stop=lambda: False,
    )
    assert isinstance(end, Finished), end
    return end


def submitted(there: Live, audit: Audit) -> str:
    """The id of an audit whose files are stored; its fields keep their own order, which is the report's."""
    response = there.client.post("/v1/audits", data=audit.model_dump_json(), content_type="application/json")
    assert response.status_code == 202, response.text
    return str(response.json["id"])


def stored(there: Live, places: Mapping[str, Path]) -> None:
    """Uploads an audit's files."""
    for digest, place in places.items():
        assert there.client.put(f"/v1/blobs/{digest}", data=place.read_bytes()).status_code == 201


def shards_of(database: Database, job_id: str) -> Any:
    """The rows of an audit's shards."""
    with database.reading() as connection:
        return connection.execute(select(jobs).where(jobs.c.parent_id == job_id)).all()
