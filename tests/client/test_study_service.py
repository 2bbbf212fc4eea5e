"""Studies on a running service, by the command: made of an audit, answered over HTTP, closed, analysed and shown."""

from __future__ import annotations

import csv
import io
import json
import re
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner, Result

from caveat.cli import cli
from caveat_reports.canonical import canonical
from caveat_spec.study import StudyFindings
from caveat_storage import blob_registry, job_state
from caveat_storage.job_records import Database
from tests.client import rated
from tests.worker.live import MODEL, TABLE, audit, digest, end, environment, serving, start_worker, valkey

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


@contextmanager
def service(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A broker and the API, each a process of its own: the URL, and the settings of a worker beside them."""
    with valkey(folder) as port:
        told = environment(folder, port, f"sqlite:///{folder / 'caveat.db'}")
        with serving(folder, CAVEAT_BROKER_URL=told["CAVEAT_BROKER_URL"]) as (url, _):
            yield url, told


@contextmanager
def worker(folder: Path, told: dict[str, str]) -> Iterator[None]:
    """A worker in a process of its own, which may not be ready yet."""
    process = start_worker(folder, "analyst", told, including="caveat_worker.jobs.tasks")
    try:
        yield
    finally:
        end(process)


def test_a_study_is_made_answered_closed_and_read(tmp_path: Path) -> None:
    with service(tmp_path) as (url, told), closing(Database(told["CAVEAT_DATABASE_URL"])) as database:
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
        wanted = ("--html", tmp_path / "findings.html", "--json", tmp_path / "findings.json")
        with worker(tmp_path, told):
            read = run("read", study, "--close", *wanted, "--url", url)
        assert read.exit_code == 0, read.output
        assert "5 points below the image" in read.output
        analysed = StudyFindings.model_validate_json((tmp_path / "findings.json").read_bytes())
        assert (analysed.taken, analysed.raters, analysed.questions[0].difference) == (12, 2, -5.0)
        assert "<script" not in (tmp_path / "findings.html").read_text()
        assert httpx2.get(links[0]).status_code == 410
        assert run("read", study, url=url).exit_code == 0, "it is analysed once and read as often as one likes"
        local = tmp_path / "report.json"
        local.write_bytes(canonical(rated.report()))
        here = run("make", local, "--raters", 2, "--seed", 7, "--truth", "cab=image", "-o", tmp_path / "local")
        assert here.exit_code == 0, here.output
        one, other = (json.loads((tmp_path / name / "study.json").read_bytes()) for name in ("local", "study"))
        assert one | {"forms": {}} == other, "both deal the same tasks"


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
