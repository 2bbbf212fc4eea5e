"""An upgrade: an earlier release's data are read, its workers and ours share a queue, and there is a way back."""

from __future__ import annotations

import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from flask import Flask

from caveat_spec.formats import FORMATS
from caveat_storage.blobs import digest_of
from caveat_storage.hash_chain import Account, account
from caveat_storage.job_records import Database, history
from tests.api import api
from tests.upgrade import earlier
from tests.worker.live import Live, live, valkey


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the earlier release, which needs the history of this repository."""
    try:
        return earlier.code(tmp_path_factory.mktemp("release"))
    except subprocess.CalledProcessError:
        pytest.skip(f"commit {earlier.RELEASE} is not here: fetch the whole history")


def test_what_an_earlier_release_stored_is_read(tmp_path: Path) -> None:
    with api(earlier.unpack(tmp_path)) as app:
        client = app.test_client()
        (audit,) = client.get("/v1/audits").json["audits"]
        assert audit["state"] == "succeeded"
        report = client.get(f"/v1/audits/{audit['id']}/report")
        assert report.status_code == 200
        assert report.json["verdict"]["outcome"] == "pass"
        for form in FORMATS:
            if form.media_type:
                shown = client.get(f"/v1/audits/{audit['id']}/report", headers={"Accept": form.media_type})
                assert shown.status_code == 200, form
        log = _log(app)
        assert log.outcomes == {"pass": 1}
        assert log.reports == {audit["id"]: digest_of(BytesIO(report.data))}


@pytest.mark.slow
def test_its_workers_and_ours_share_a_queue(tmp_path: Path, tree: Path) -> None:
    """Old workers run on the new schema while they are replaced; afterwards they alone take over again."""
    earlier.unpack(tmp_path)
    old_code = earlier.environment(tree)["PYTHONPATH"]
    with valkey(tmp_path / "valkey") as port, live(tmp_path, port) as there:
        with there.worker("old", tree=tree, PYTHONPATH=old_code), there.worker("new"):
            together = [there.submit(1000 + number) for number in range(8)]
            ended = [there.wait(one) for one in together]
        assert {one["state"] for one in ended} == {"succeeded"}
        assert {_worker(there, one) for one in together} == {"old@test", "new@test"}
        with there.worker("old", tree=tree, PYTHONPATH=old_code):
            back = there.submit()
            assert there.wait(back)["state"] == "succeeded"
        assert _worker(there, back) == "old@test"


@pytest.mark.slow
def test_the_way_back_is_the_database_of_before_with_the_blobs_of_now(tmp_path: Path, tree: Path) -> None:
    """As docs/operations.md says: an older release does not start on a newer schema, so its database is restored."""
    data = tmp_path / "data"
    data.mkdir()
    earlier.unpack(data)
    shutil.copy(data / "caveat.db", tmp_path / "backup.db")
    with api(data) as app:  # migrates
        assert app.test_client().put(f"/v1/blobs/sha256:{64 * '0'}", data=b"").status_code == 422
    with pytest.raises(AssertionError, match="Can't locate revision"), earlier.up(tree, data):
        pass
    for part in data.glob("caveat.db*"):
        part.unlink()
    shutil.copy(tmp_path / "backup.db", data / "caveat.db")
    with earlier.up(tree, data) as url:
        earlier.gate(tree, url)


def _log(app: Flask) -> Account:
    """The audit log; raises `BrokenError` if its chain is not whole."""
    return account(app.test_client().get("/v1/audit-log").data.splitlines(keepends=True))


def _worker(there: Live, audit: str) -> str:
    """The worker that ran an audit; the API tells no tenant."""
    database = Database(there.database_url)
    claims = [event.data["worker"] for event in history(database, "default", audit) if event.what == "claim"]
    database.close()
    return str(claims[-1])  # an earlier one lost its lease, if the machine was busy
