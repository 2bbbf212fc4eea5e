"""The worker that analyses studies, played by a test."""

from __future__ import annotations

from datetime import timedelta

from caveat_spec.study import NewFindings
from caveat_storage import job_state, studies
from caveat_storage.job_records import Database
from caveat_storage.job_state import Lease
from caveat_worker.study_analysis import analyse_study


def claimed(database: Database, tenant: str, study: str) -> Lease:
    """The lease of the job that analyses a closed study."""
    row = studies.get(database, tenant, study)
    assert row is not None
    assert row.analysis_id is not None
    lease = job_state.claim(database, row.analysis_id, worker="celery@host", lasts=timedelta(hours=1))
    assert lease is not None
    return lease


def analysed(database: Database, tenant: str, study: str) -> None:
    """Analyses a closed study."""
    lease = claimed(database, tenant, study)
    found = analyse_study(NewFindings.model_validate(lease.payload))
    assert job_state.succeed(database, lease, found.model_dump(mode="json"))
