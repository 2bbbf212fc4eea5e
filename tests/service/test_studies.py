"""Studies by the API: forms behind links, answers that nobody changes, one analysis at the end, and what is deleted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError
from werkzeug.test import TestResponse

from caveat_reports.canonical import canonical
from caveat_service import raters as pages
from caveat_service.state import AppContext
from caveat_spec.problem import ProblemDetails
from caveat_spec.study import COLUMNS, Study, StudyFindings
from caveat_storage import blob_registry, hash_chain, job_records, job_state, keys, retention, studies, upgrade
from caveat_storage.audit_log import export
from caveat_storage.job_records import Database, migrate
from caveat_storage.tables import answers, jobs, raters
from caveat_storage.tables import studies as table
from tests.api import api
from tests.client import rated
from tests.service import analyst
from tests.service.test_attestations import job, run
from tests.storage.conftest import empty
from tests.worker.live import MODEL, TABLE, audit, digest, postgresql

__all__ = ["job"]
"""A fixture that another module has."""

GOOD = {"image": "7", "concept": "2", "confidence": "4"}
NEW = {"raters": 9, "seed": 7, "truth": {"cab": "image", "zebra": "caption"}}


@pytest.fixture(scope="module")
def owner() -> Iterator[str]:
    """A migrated PostgreSQL, as the owner of its tables."""
    with postgresql() as url:
        migrate(url)
        upgrade.admit(url, {upgrade.API: as_api(url)})
        yield url


def as_api(url: str) -> str:
    """The same database in the role of the API."""
    return make_url(url).set(username="an_api", password="p").render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Flask]:
    """The API over each database; in PostgreSQL in its own role, which may not do everything."""
    pages._study.cache_clear()
    pages._material.cache_clear()
    if request.param == "sqlite":
        with api(tmp_path, longest_wait=1) as app:
            yield app
        return
    url = request.getfixturevalue("owner")
    database = Database(url)
    empty(database)
    database.close()
    with api(tmp_path, longest_wait=1, database_url=as_api(url)) as app:
        app.config["OWNER"] = url
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def audited(app: Flask, client: FlaskClient, job: str) -> str:
    """An audit whose report has maps for raters."""
    worked(app, job)
    return job


def worked(app: Flask, job: str) -> None:
    """What a worker does with an audit; it has the owner's rights here."""
    with owning(app):
        run(app, job, report=canonical(rated.report()))


class owning:
    """Lets a part of a test use the database as its owner, since it plays a worker or an attacker."""

    def __init__(self, app: Flask) -> None:
        self._context: AppContext = app.extensions["caveat"]
        self._url = app.config.get("OWNER")

    def __enter__(self) -> Database:
        self._before = self._context.database
        self._owner = self._before if self._url is None else Database(self._url)
        object.__setattr__(self._context, "database", self._owner)
        return self._owner

    def __exit__(self, *_: object) -> None:
        object.__setattr__(self._context, "database", self._before)
        if self._owner is not self._before:
            self._owner.close()


def make(client: FlaskClient, audited: str, **changed: Any) -> tuple[dict[str, Any], list[str]]:
    """A study and its links."""
    made = client.post("/v1/studies", json={"audit": audited} | NEW | changed)
    assert made.status_code == 201, made.json
    assert made.headers["Location"] == f"/v1/studies/{made.json['study']['id']}"
    return made.json["study"], [one["path"] for one in made.json["links"]]


def send(client: FlaskClient, link: str, number: int, **changed: str) -> TestResponse:
    """Fills a task's form as a browser would."""
    token = re.search(r'name="token" value="([^"]+)"', client.get(f"{link}/{number}").text)
    fields = GOOD | ({} if token is None else {"token": token[1]}) | changed
    return client.post(f"{link}/{number}", data=fields)


def answer_everything(client: FlaskClient, links: list[str], tasks: int = 6) -> None:
    for at, link in enumerate(links):
        for number in range(1, tasks + 1):
            assert send(client, link, number, concept=str(1 + at % 3)).status_code == 303


def analysed(app: Flask, client: FlaskClient, study: str) -> None:
    """The work of a worker on a closed study."""
    with owning(app) as database:
        analyst.analysed(database, "default", study)


def problem(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, str(answer.json["type"]).rpartition(":")[2]


def logged(app: Flask) -> list[dict[str, Any]]:
    """The tenant's audit log, once it is verified."""
    context: AppContext = app.extensions["caveat"]
    lines = list(export(context.database, "default"))
    hash_chain.account(lines)
    return [json.loads(line) for line in lines]


def test_a_study_from_a_report_to_what_its_ratings_came_to(app: Flask, client: FlaskClient, audited: str) -> None:
    study, links = make(client, audited)
    assert (study["state"], study["raters"], study["tasks"], study["taken"]) == ("open", 9, 54, 0)
    assert (study["concept"], study["classes"]) == ("caption", ["cab", "zebra", "cucumber"])
    assert len(set(links)) == 9
    protocol = client.get(f"/v1/studies/{study['id']}/protocol")
    assert digest(protocol.data) == study["study"]
    assert Study.model_validate_json(protocol.data).seed == 7
    answer_everything(client, links)
    assert client.get(f"/v1/studies/{study['id']}").json["taken"] == 54
    early = client.get(f"/v1/studies/{study['id']}/findings")
    assert problem(early) == (409, "study-open")
    closed = client.post(f"/v1/studies/{study['id']}:close")
    assert (closed.status_code, closed.json["state"], closed.json["analysis"]) == (202, "closed", "queued")
    assert problem(client.get(f"/v1/studies/{study['id']}/findings")) == (409, "not-analysed-yet")
    analysed(app, client, study["id"])
    answered = client.get(f"/v1/studies/{study['id']}/findings")
    found = StudyFindings.model_validate_json(answered.data)
    assert (found.taken, found.answered, found.refused, found.missing) == (54, 9, [], [])
    assert found.study == study["study"]
    (first, *_) = found.questions
    assert (first.raters, first.difference) == (9, -5.0)
    assert first.p_corrected is not None
    assert first.p_corrected < 0.05
    assert "points below the image" in first.sentence
    assert [one.truth for one in found.orders] == ["image", "concept", None]
    page = client.get(f"/v1/studies/{study['id']}/findings", headers={"Accept": "text/html"})
    assert page.mimetype == "text/html"
    assert first.sentence.split(":")[0] in page.text
    again = client.get(f"/v1/studies/{study['id']}/findings", headers={"If-None-Match": answered.headers["ETag"]})
    assert again.status_code == 304
    assert client.post(f"/v1/studies/{study['id']}:close").json["analysis"] == "succeeded"
    assert client.get(f"/v1/studies/{study['id']}/findings").data == answered.data, "it is analysed once"


def test_the_same_report_and_seed_deal_the_same_tasks_under_other_links(client: FlaskClient, audited: str) -> None:
    one, other = make(client, audited), make(client, audited)
    assert one[0]["study"] == other[0]["study"]
    assert not set(one[1]) & set(other[1])
    assert make(client, audited, seed=8)[0]["study"] != one[0]["study"]
    listed = client.get("/v1/studies?limit=2").json
    assert [row["id"] for row in listed["studies"]][1] == other[0]["id"]
    rest = client.get(f"/v1/studies?page_token={listed['next_page_token']}").json
    assert ([row["id"] for row in rest["studies"]], rest["next_page_token"]) == ([one[0]["id"]], None)


def test_a_request_with_the_same_key_makes_one_study_and_gets_the_same_links(
    app: Flask, client: FlaskClient, audited: str
) -> None:
    def ask(key: str, **changed: Any) -> TestResponse:
        asked = {"audit": audited} | NEW | changed
        return app.test_client().post("/v1/studies", json=asked, headers={"Idempotency-Key": key})

    first = ask("1")
    assert send(client, first.json["links"][0]["path"], 1).status_code == 303
    with ThreadPoolExecutor(4) as threads:
        others = list(threads.map(ask, ["1", "2", "2", "2"]))
    assert {one.status_code for one in others} == {201}
    assert others[0].json["links"] == first.json["links"]
    assert others[0].json["study"] == first.json["study"] | {"taken": 1, "answered": 1}
    assert others[0].headers["Location"] == first.headers["Location"]
    assert others[1].json == others[2].json == others[3].json
    assert [row["id"] for row in client.get("/v1/studies").json["studies"]] == [
        others[1].json["study"]["id"], first.json["study"]["id"],
    ]  # fmt: skip
    assert not {one["path"] for one in others[1].json["links"]} & {one["path"] for one in first.json["links"]}
    assert problem(ask("1", seed=8)) == (422, "idempotency-key-reused")
    for one in (others[1], first):
        assert client.delete(f"/v1/studies/{one.json['study']['id']}").status_code == 204
    again = ask("1")
    assert again.json["study"]["id"] != first.json["study"]["id"], "a deleted study is made anew"
    assert not {one["path"] for one in again.json["links"]} & {one["path"] for one in first.json["links"]}


def test_an_answer_is_kept_once_and_does_not_change(client: FlaskClient, audited: str) -> None:
    study, links = make(client, audited)
    token = re.search(r'name="token" value="([^"]+)"', client.get(f"{links[0]}/1").text)
    assert token is not None
    first = client.post(f"{links[0]}/1", data=GOOD | {"token": token[1]})
    assert (first.status_code, first.headers["Location"]) == (303, f"{links[0]}/2")
    assert client.post(f"{links[0]}/1", data=GOOD | {"token": token[1]}).status_code == 303, "sent twice"
    other = client.post(f"{links[0]}/1", data=GOOD | {"token": token[1], "image": "1"})
    assert other.status_code == 409
    assert "Another answer to this task was kept before" in other.text
    (kept,) = client.get(f"/v1/studies/{study['id']}/ratings").json["ratings"]
    assert {name: kept[name] for name in ("rater", "task", "image", "concept", "confidence")} == {
        "rater": 1, "task": 1, "image": 7, "concept": 2, "confidence": 4,
    }  # fmt: skip
    shown = client.get(f"{links[0]}/1").text
    assert "<form" not in shown
    assert "7 of 10" in shown


def test_two_answers_at_the_same_time_are_one(app: Flask, client: FlaskClient, audited: str) -> None:
    study, links = make(client, audited)
    token = re.search(r'name="token" value="([^"]+)"', client.get(f"{links[0]}/1").text)
    assert token is not None
    fields = [GOOD | {"token": token[1], "image": str(image)} for image in (1, 2, 3, 4)]
    with ThreadPoolExecutor(4) as threads:
        sent = threads.map(lambda form: app.test_client().post(f"{links[0]}/1", data=form).status_code, fields)
    assert sorted(sent) == [303, 409, 409, 409]
    assert len(client.get(f"/v1/studies/{study['id']}/ratings").json["ratings"]) == 1


def test_a_rater_sees_neither_others_answers_nor_anything_else(client: FlaskClient, audited: str) -> None:
    study, links = make(client, audited)
    assert send(client, links[0], 1, image="9", confidence="5").status_code == 303
    for path in (links[1], f"{links[1]}/1"):
        page = client.get(path)
        assert page.status_code == 200
        assert "9 of 10" not in page.text
        assert "<script" not in page.text
        for hidden in ("gradient_x_input", "Gradient x input", "saliency", study["id"], audited):
            assert hidden not in page.text
    assert "0 of 6 tasks are answered" in client.get(links[1]).text
    page = client.get(f"{links[1]}/1")
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in page.headers


def test_a_form_of_another_site_another_task_or_another_rater_is_not_taken(client: FlaskClient, audited: str) -> None:
    study, links = make(client, audited)

    def token(link: str, number: int) -> str:
        found = re.search(r'name="token" value="([^"]+)"', client.get(f"{link}/{number}").text)
        assert found is not None
        return found[1]

    right = token(links[0], 1)
    for wrong in ("", "x", token(links[0], 2), token(links[1], 1)):
        refused = client.post(f"{links[0]}/1", data=GOOD | {"token": wrong})
        assert refused.status_code == 403
        assert "was not taken" in refused.text
    foreign = client.post(f"{links[0]}/1", data=GOOD | {"token": right}, headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403
    large = client.post(f"{links[0]}/1", data={"token": right, "image": "7" * 5000})
    assert large.status_code == 413
    assert client.get(f"/v1/studies/{study['id']}/ratings").json["ratings"] == []
    own = client.post(f"{links[0]}/1", data=GOOD | {"token": right}, headers={"Origin": "http://localhost"})
    assert own.status_code == 303


@pytest.mark.parametrize("changed", [{"image": ""}, {"image": "11"}, {"concept": "0"}])
def test_what_is_not_on_its_scale_is_asked_again(client: FlaskClient, audited: str, changed: dict[str, str]) -> None:
    study, links = make(client, audited)
    sent = send(client, links[0], 1, **changed)
    assert sent.status_code == 422
    assert "This was not sent yet." in sent.text
    assert "Choose a number from 1 to" in sent.text
    assert client.get(f"/v1/studies/{study['id']}").json["taken"] == 0


def test_wrong_links_get_a_page_and_count_against_their_address(app: Flask, client: FlaskClient, audited: str) -> None:
    _, links = make(client, audited)
    wrong = f"/rate/{'A' * 24}"
    for path in (wrong, f"{wrong}/1", "/rate/short"):
        refused = client.get(path)
        assert (refused.status_code, refused.mimetype) == (404, "text/html")
    assert client.get(f"{links[0]}/7").status_code == 404
    found = [client.get(wrong).status_code for _ in range(40)]
    assert 429 in found
    assert client.get(links[0]).status_code == 200, "who has a link is not limited"


def test_a_closed_study_takes_no_answer_and_its_findings_wait_for_nobody(
    app: Flask, client: FlaskClient, audited: str
) -> None:
    study, links = make(client, audited)
    assert send(client, links[0], 1).status_code == 303
    token = re.search(r'name="token" value="([^"]+)"', client.get(f"{links[0]}/2").text)
    assert token is not None
    assert client.post(f"/v1/studies/{study['id']}:close").status_code == 202
    late = client.post(f"{links[0]}/2", data=GOOD | {"token": token[1]})
    assert (late.status_code, "takes no more answers" in late.text) == (410, True)
    assert client.get(links[0]).status_code == 410
    assert client.get(f"{links[0]}/1").status_code == 200, "a rater still sees what they answered"
    analysed(app, client, study["id"])
    found = client.get(f"/v1/studies/{study['id']}/findings").json
    assert (found["taken"], found["questions"][0]["p"]) == (1, None)
    assert any("Only 1 rater answered" in note for note in found["notes"])


def test_a_study_closed_by_several_at_once_is_analysed_once(app: Flask, client: FlaskClient, audited: str) -> None:
    study, links = make(client, audited)
    assert send(client, links[0], 1).status_code == 303
    with ThreadPoolExecutor(6) as threads:
        closed = list(threads.map(lambda _: app.test_client().post(f"/v1/studies/{study['id']}:close"), range(6)))
    assert [(one.status_code, one.json["analysis"]) for one in closed] == [(202, "queued")] * 6
    assert len(analyses(app)) == 1


def test_an_analysis_that_came_to_nothing_is_made_again_and_both_go_with_the_study(
    app: Flask, client: FlaskClient, audited: str
) -> None:
    study, _ = make(client, audited)
    client.post(f"/v1/studies/{study['id']}:close")
    assert len(analyses(app)) == 1
    with owning(app) as database:
        lease = analyst.claimed(database, "default", study["id"])
        assert job_state.fail(database, lease, ProblemDetails.of("job-failed", 500, "It failed.", "Repeat it."))
    assert problem(client.get(f"/v1/studies/{study['id']}/findings")) == (409, "not-analysed")
    with ThreadPoolExecutor(4) as threads:
        closed = list(threads.map(lambda _: app.test_client().post(f"/v1/studies/{study['id']}:close"), range(4)))
    assert {one.json["analysis"] for one in closed} == {"queued"}
    assert len(analyses(app)) == 2
    analysed(app, client, study["id"])
    assert client.delete(f"/v1/studies/{study['id']}").status_code == 204
    assert analyses(app) == []
    about = [entry for entry in logged(app) if entry["payload"] and study["id"] in json.dumps(entry["payload"])]
    assert [entry["what"] for entry in about] == ["erase"]


def analyses(app: Flask) -> list[str]:
    """The jobs that analyse studies."""
    with owning(app) as database, database.reading() as connection:
        return [row.id for row in connection.execute(jobs.select().where(jobs.c.kind == "findings"))]


def test_ratings_are_the_file_that_the_command_reads(client: FlaskClient, audited: str) -> None:
    study, links = make(client, audited)
    assert send(client, links[2], 4).status_code == 303
    table = client.get(f"/v1/studies/{study['id']}/ratings", headers={"Accept": "text/csv"})
    head, row = table.text.splitlines()
    assert head.split(",") == list(COLUMNS)
    assert (row.split(",")[:2], row.split(",")[5:]) == (["3", "4"], ["7", "2", "4"])
    refused = client.get(f"/v1/studies/{study['id']}/ratings", headers={"Accept": "image/png"})
    assert problem(refused) == (406, "not-acceptable")


def test_a_form_is_printable_and_has_all_tasks_of_its_rater(client: FlaskClient, audited: str) -> None:
    study, links = make(client, audited)
    form = client.get(f"/v1/studies/{study['id']}/forms/2")
    assert (form.status_code, form.mimetype) == (200, "text/html")
    assert form.text.count('<section class="task"') == 6
    assert "<script" not in form.text
    assert links[1].rpartition("/")[2] not in form.text, "paper has no link"
    assert problem(client.get(f"/v1/studies/{study['id']}/forms/10")) == (404, "not-found")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"pictures": 8, "targets": ["dog"]}, "no map for 'dog'. It draws maps for cab"),
        ({"maps": ["occlusion"]}, "Not every class has maps of the kind 'occlusion'"),
        ({"concept": "logo"}, "no concept 'logo'"),
        ({"truth": {"cab": "logo"}}, "`truth` cab=logo does not say which of the two"),
    ],
)
def test_what_the_report_does_not_allow_is_said(
    client: FlaskClient, audited: str, changed: dict[str, Any], sentence: str
) -> None:
    refused = client.post("/v1/studies", json={"audit": audited} | changed)
    assert refused.status_code == 422
    assert sentence in f"{refused.json['detail']} {refused.json['remedy']}"
    assert "--" not in refused.json["detail"] + refused.json["remedy"]
    (place,) = re.findall(r'<(/problems/[a-z-]+)>; rel="help"', refused.headers["Link"])
    assert client.get(place).status_code == 200


def test_an_audit_without_a_report_or_of_nobody_makes_no_study(client: FlaskClient, job: str) -> None:
    assert problem(client.post("/v1/studies", json={"audit": job})) == (409, "no-report")
    assert problem(client.post("/v1/studies", json={"audit": "0" * 26})) == (404, "not-found")
    assert problem(client.post("/v1/studies", json={"audit": job, "raters": 0})) == (422, "invalid")


def test_every_answer_is_in_the_audit_log_and_the_end_has_the_digest_of_all(
    app: Flask, client: FlaskClient, audited: str
) -> None:
    study, links = make(client, audited)
    assert send(client, links[4], 3).status_code == 303
    client.post(f"/v1/studies/{study['id']}:close")
    entries = {entry["what"]: entry["payload"] for entry in logged(app) if "study" in entry["what"]}
    assert list(entries) == ["create_study", "answer_study", "close_study"]
    assert entries["create_study"]["protocol"] == study["study"]
    answer = entries["answer_study"]
    assert (answer["by"], answer["task"], answer["image"], answer["concept"]) == ("rater:5", 3, 7, 2)
    assert entries["close_study"]["ratings"] == hash_chain.digest([[5, 3, 7, 2, 4]])
    context: AppContext = app.extensions["caveat"]
    kept = studies.answers_of(context.database, study["id"])
    assert studies.digest_of_answers(kept) == entries["close_study"]["ratings"]
    with owning(app) as database, database.writing() as connection:
        connection.execute(answers.update().values(image=1))
    changed = studies.answers_of(context.database, study["id"])
    assert studies.digest_of_answers(changed) != entries["close_study"]["ratings"]
    for link in links:
        token = link.rpartition("/")[2]
        assert token not in json.dumps(logged(app)), "no entry holds a link"


def test_links_are_not_in_the_database_nor_the_key_that_makes_them(
    app: Flask, client: FlaskClient, audited: str
) -> None:
    study, links = make(client, audited)
    asked = {"json": {"audit": audited} | NEW, "headers": {"Idempotency-Key": "a-key-of-a-client"}}
    links += [one["path"] for one in client.post("/v1/studies", **asked).json["links"]]
    with owning(app) as database, database.reading() as connection:
        kept = str(connection.execute(raters.select()).all()) + str(connection.execute(table.select()).all())
    assert all(link.rpartition("/")[2] not in kept for link in links)
    assert "a-key-of-a-client" not in kept
    assert "a-key-of-a-client" not in json.dumps(logged(app))
    assert "links" not in client.get(f"/v1/studies/{study['id']}").json


@pytest.mark.parametrize("app", ["postgresql"], indirect=True)  # SQLite has no roles
def test_the_role_of_the_api_changes_no_answer(app: Flask, client: FlaskClient, audited: str) -> None:
    _, links = make(client, audited)
    assert send(client, links[0], 1).status_code == 303
    context: AppContext = app.extensions["caveat"]
    for statement in ("UPDATE answers SET image = 1", "DELETE FROM answers", "UPDATE raters SET rater = 2"):
        with pytest.raises(DBAPIError, match="permission denied"), context.database.writing() as connection:
            connection.execute(text(statement))


def test_a_deleted_study_leaves_nothing_but_entries_without_details(
    app: Flask, client: FlaskClient, audited: str
) -> None:
    study, links = make(client, audited)
    other, _ = make(client, audited, seed=9)
    assert send(client, links[0], 1).status_code == 303
    client.post(f"/v1/studies/{study['id']}:close")
    assert problem(client.delete(f"/v1/studies/{study['id']}")) == (409, "study-analysed")
    analysed(app, client, study["id"])
    assert client.delete(f"/v1/studies/{study['id']}").status_code == 204
    assert problem(client.get(f"/v1/studies/{study['id']}")) == (404, "not-found")
    assert client.get(links[0]).status_code == 404
    assert client.delete(f"/v1/studies/{study['id']}").status_code == 404
    with owning(app) as database, database.reading() as connection:
        assert connection.execute(answers.select()).all() == []
        assert [row.study_id for row in connection.execute(raters.select())] == [other["id"]] * 9
        assert connection.execute(jobs.select().where(jobs.c.kind == "findings")).all() == []
    assert client.get(f"/v1/blobs/{study['study']}").status_code == 404, "the protocol is no upload any more"
    assert client.get(f"/v1/blobs/{other['study']}").status_code == 200
    assert client.get(f"/v1/studies/{other['id']}/forms/1").status_code == 200, "both show the same pictures"
    entries = logged(app)
    gone = [entry for entry in entries if entry["what"] in studies.LOGGED and entry["payload"] is None]
    assert [entry["what"] for entry in gone] == ["create_study", "answer_study", "close_study"]
    assert entries[-1]["what"] == "erase"
    assert entries[-1]["payload"]["studies"] == [study["id"]]


def test_what_expires_and_what_is_erased(app: Flask, client: FlaskClient, audited: str) -> None:
    study, links = make(client, audited)
    assert send(client, links[0], 1).status_code == 303
    context: AppContext = app.extensions["caveat"]
    early = job_records.now() - timedelta(days=1)
    assert retention.forget(context.database, before=early, by="retention").studies == 0
    blobs = blob_registry.opened(context.settings.blobs_url, context.database)
    blob_registry.collect(context.database, blobs, unused_for=timedelta())
    assert client.get(f"{links[0]}/2").status_code == 200, "what raters see is in use"
    gone = retention.forget_tenant(context.database, "default", by="operator")
    assert gone.studies == 1
    assert client.get(links[0]).status_code == 404
    blob_registry.collect(context.database, blobs, unused_for=timedelta())
    assert not blobs.exists(study["study"])


def test_tenants_see_nothing_of_each_other(tmp_path: Path) -> None:
    with api(tmp_path, auth="keys") as app:
        client, context = app.test_client(), app.extensions["caveat"]
        issued = {
            (tenant, scope): {"Authorization": f"Bearer {keys.issue(context.database, tenant, 'ci', [scope])}"}
            for tenant in ("acme", "globex")
            for scope in ("submit", "read", "admin")
        }
        for data in (MODEL, TABLE):
            client.put(f"/v1/blobs/{digest(data)}", data=data, headers=issued["acme", "submit"])
        job = client.post("/v1/audits", json=audit(), headers=issued["acme", "submit"]).json["id"]
        run(app, job, report=canonical(rated.report()))
        asked = {"json": {"audit": job, "raters": 2}}
        assert client.post("/v1/studies", headers=issued["globex", "submit"], **asked).status_code == 404
        assert client.post("/v1/studies", headers=issued["acme", "read"], **asked).status_code == 403
        assert client.post("/v1/studies", **asked).status_code == 401
        made = client.post("/v1/studies", headers=issued["acme", "submit"], **asked)
        assert made.status_code == 201
        study, link = made.json["study"]["id"], made.json["links"][0]["path"]
        assert send(client, link, 1).status_code == 303, "a rater needs no key"
        for path in ("", "/protocol", "/ratings", "/findings", "/forms/1"):
            assert client.get(f"/v1/studies/{study}{path}", headers=issued["globex", "read"]).status_code == 404
            assert client.get(f"/v1/studies/{study}{path}").status_code == 401
            assert client.get(f"/v1/studies/{study}{path}", headers=issued["acme", "submit"]).status_code == 403
        assert client.get("/v1/studies", headers=issued["globex", "read"]).json["studies"] == []
        assert client.post(f"/v1/studies/{study}:close", headers=issued["globex", "submit"]).status_code == 404
        assert client.delete(f"/v1/studies/{study}", headers=issued["globex", "admin"]).status_code == 404
        assert client.delete(f"/v1/studies/{study}", headers=issued["acme", "submit"]).status_code == 403
        assert client.delete(f"/v1/studies/{study}", headers=issued["acme", "admin"]).status_code == 204


def test_quota_number_and_rate_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = len(MODEL) + len(TABLE)
    with api(tmp_path, tenant_bytes=used + 1000, rate_limit="12/minute") as app:
        client = app.test_client()
        for data in (MODEL, TABLE):
            client.put(f"/v1/blobs/{digest(data)}", data=data)
        job = client.post("/v1/audits", json=audit()).json["id"]
        run(app, job, report=canonical(rated.report()))
        assert problem(client.post("/v1/studies", json={"audit": job})) == (413, "quota-bytes")
        context: AppContext = app.extensions["caveat"]
        object.__setattr__(context, "settings", context.settings.model_copy(update={"tenant_bytes": 0}))
        monkeypatch.setattr(studies, "MOST_STUDIES", 1)
        _, links = make(client, job, raters=2)
        assert problem(client.post("/v1/studies", json={"audit": job})) == (409, "too-many-studies")
        found = [client.get(links[0]).status_code for _ in range(14)]
        assert found == [200] * 12 + [429] * 2
        assert client.get(links[1]).status_code == 200, "one link does not use up another's"
        assert client.get("/v1/studies").status_code == 200, "nor its tenant's"
