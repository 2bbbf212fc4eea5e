"""Studies on a running service, by the command: made of an audit, answered over HTTP, closed, analysed and shown."""

from __future__ import annotations

import csv
import io
import json
import re
import stat
import threading
import time
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner, Result

from caveat.cli import cli
from caveat_reports.canonical import canonical
from caveat_spec.study import NewFindings, StudyFindings
from caveat_storage import blob_registry, job_state
from caveat_storage.job_records import Database
from caveat_storage.tables import jobs
from caveat_worker.study_analysis import analyse_study
from tests.client import rated
from tests.worker.live import MODEL, TABLE, audit, digest, serving

UNKNOWN = "0" * 26


def run(*arguments: object, url: str | None = None) -> Result:
    environment = {"CAVEAT_URL": url} if url else {}
    return CliRunner(env=environment).invoke(cli, ["study", *map(str, arguments)])


def audited(url: str, database: Database, folder: Path) -> str:
    """An audit that a worker has done, with maps in its report."""
    for data in (MODEL, TABLE):
        httpx2.put(f"{url}/v1/blobs/{digest(data)}", content=data).raise_for_status()
    job = str(httpx2.post(f"{url}/v1/audits", json=audit()).json()["id"])
    report = canonical(rated.report())
    lease = job_state.claim(database, job, worker="celery@host", lasts=timedelta(hours=1))
    assert lease is not None
    blob_registry.opened(str(folder / "blobs"), database).put(io.BytesIO(report), digest(report))
    assert job_state.succeed(database, lease, {"outcome": None}, digest(report))
    return job


def analyse(database: Database, until: threading.Event) -> None:
    """The work of a worker: takes every analysis that waits."""
    while not until.is_set():
        with database.reading() as connection:
            waiting = connection.scalars(jobs.select().where(jobs.c.kind == "findings", jobs.c.state == "queued")).all()
        for job in waiting:
            lease = job_state.claim(database, job, worker="celery@host", lasts=timedelta(hours=1))
            assert lease is not None
            found = analyse_study(NewFindings.model_validate(lease.payload))
            assert job_state.succeed(database, lease, found.model_dump(mode="json"))
        time.sleep(0.05)


def test_a_study_is_made_answered_closed_and_read(tmp_path: Path) -> None:
    with serving(tmp_path) as (url, _):
        database = Database(f"sqlite:///{tmp_path / 'caveat.db'}")
        job = audited(url, database, tmp_path)
        folder = tmp_path / "study"
        made = run("make", job, "--raters", 2, "--seed", 7, "--truth", "cab=image", "-o", folder, url=url)
        assert made.exit_code == 0, made.output
        said = " ".join(made.output.split())
        assert "on the service for 2 raters, each with 6 tasks (3 classes x 2 kinds of map)." in said
        assert stat.S_IMODE((folder / "links.csv").stat().st_mode) == 0o600
        found = re.search(r"the study ([0-9a-z]{26})", made.output)
        assert found is not None
        study = found[1]
        links = [row["link"] for row in csv.DictReader((folder / "links.csv").read_text().splitlines())]
        for link in links:
            for number in range(1, 7):
                token = re.search(r'name="token" value="([^"]+)"', httpx2.get(f"{link}/{number}").text)
                assert token is not None
                fields = {"token": token[1], "image": "7", "concept": "2", "confidence": "4"}
                assert httpx2.post(f"{link}/{number}", data=fields).status_code == 303
        assert "Thank you" in httpx2.get(links[0]).text
        progress = run("read", study, url=url)
        assert progress.exit_code == 0, progress.output
        assert "12 of 12 tasks were answered by 2 of 2 raters. The study is open." in " ".join(progress.output.split())
        done = threading.Event()
        worker = threading.Thread(target=analyse, args=(database, done), daemon=True)
        worker.start()
        wanted = ("--html", tmp_path / "findings.html", "--json", tmp_path / "findings.json")
        read = run("read", study, "--close", *wanted, "--url", url)
        done.set()
        worker.join()
        assert read.exit_code == 0, read.output
        assert "5 points below the image" in read.output
        told = StudyFindings.model_validate_json((tmp_path / "findings.json").read_bytes())
        assert (told.taken, told.raters, told.questions[0].difference) == (12, 2, -5.0)
        assert "<script" not in (tmp_path / "findings.html").read_text()
        assert httpx2.get(links[0]).status_code == 410
        assert run("read", study, url=url).exit_code == 0, "it is analysed once and read as often as one likes"
        local = tmp_path / "report.json"
        local.write_bytes(canonical(rated.report()))
        here = run("make", local, "--raters", 2, "--seed", 7, "--truth", "cab=image", "-o", tmp_path / "local")
        assert here.exit_code == 0, here.output
        one, other = (json.loads((tmp_path / name / "study.json").read_bytes()) for name in ("local", "study"))
        assert one | {"forms": {}} == other, "both deal the same tasks"
        database.close()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("read", UNKNOWN), "an id on a service, and no service is named"),
        (("make", UNKNOWN), "an id on a service, and no service is named"),
        (("read", UNKNOWN, "ratings.csv", "--url", "http://127.0.0.1:1"), "the service has its own"),
        (("read", ".", "--close"), "--close ends a study on a service"),
    ],
)
def test_what_is_of_a_service_is_not_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run(*arguments)
    assert said.exit_code == 2
    assert sentence in " ".join(said.output.split())
