"""`caveat study serve`: each rater's forms behind a link, answers that are on the disk before they are confirmed."""

from __future__ import annotations

import csv
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner, Result

from caveat.cli import cli
from caveat.problems import ProblemError
from caveat.study import answers as answers_module
from caveat.study.answers import Answers
from caveat.study.folder import open_study
from caveat.study.making import make_study
from caveat.study.serving import open_server
from caveat_reports.study.dealing import Design
from caveat_spec.study import COLUMNS, Answer
from tests.client import rated

GOOD = {"image": "7", "concept": "2", "confidence": "4"}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rated.written(tmp_path_factory.mktemp("report") / "report.json")


@pytest.fixture
def study(report: Path, tmp_path: Path) -> Path:
    make_study(report, Design(3, 7), tmp_path / "study")
    return tmp_path / "study"


@contextmanager
def served(study: Path) -> Iterator[list[str]]:
    """The links of a study's raters while it is served."""
    with open_server(study, "127.0.0.1", 0, None) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield [row["link"] for row in csv.DictReader(server.links.read_text().splitlines())]
        server.shutdown()
        thread.join()


@pytest.fixture
def links(study: Path) -> Iterator[list[str]]:
    with served(study) as found:
        yield found


def kept(study: Path) -> list[tuple[str, ...]]:
    """Rater, task and ratings of each line, behind the head."""
    lines = list(csv.reader((study / "answers.csv").read_text().splitlines()))
    assert lines[0] == list(COLUMNS)
    return [(line[0], line[1], *line[5:]) for line in lines[1:]]


def send(link: str, number: int, **changed: str) -> httpx2.Response:
    """Fills a task's form as a browser would."""
    page = httpx2.get(f"{link}/{number}").text
    token = re.search(r'name="token" value="([^"]+)"', page)
    fields = GOOD | ({} if token is None else {"token": token[1]}) | changed
    return httpx2.post(f"{link}/{number}", data=fields)


def test_a_rater_answers_task_by_task(study: Path, links: list[str]) -> None:
    begun = httpx2.get(links[0])
    assert "0 of 6 tasks are answered" in begun.text
    assert "Begin with task 1" in begun.text
    for number in range(1, 7):
        sent = send(links[0], number)
        assert sent.status_code == 303
        following = httpx2.get(str(httpx2.URL(f"{links[0]}/{number}").join(sent.headers["Location"])))
        assert ("Thank you" if number == 6 else f"Task {number + 1} of 6") in following.text
    assert kept(study) == [("1", str(number), "7", "2", "4") for number in range(1, 7)]
    assert "0 of 6 tasks are answered" in httpx2.get(links[1]).text, "another rater has another link"


def test_who_comes_back_sees_what_is_missing(links: list[str]) -> None:
    assert send(links[0], 2).status_code == 303
    page = httpx2.get(links[0]).text
    assert "1 of 6 tasks are answered" in page
    assert "Go on with task 1" in page
    assert page.count("missing<") == 5
    assert "Image</dt><dd>7 of 10" in httpx2.get(f"{links[0]}/2").text


def test_after_the_last_task_come_those_that_were_left_out(links: list[str]) -> None:
    location = send(links[0], 6).headers["Location"]
    assert location.endswith("/1")


def test_a_double_submit_is_one_answer_and_another_one_is_refused(study: Path, links: list[str]) -> None:
    page = httpx2.get(f"{links[0]}/1").text
    (token,) = re.findall(r'name="token" value="([^"]+)"', page)
    first, second = (httpx2.post(f"{links[0]}/1", data=GOOD | {"token": token}) for _ in range(2))
    assert (first.status_code, second.status_code) == (303, 303)
    other = httpx2.post(f"{links[0]}/1", data=GOOD | {"token": token, "image": "1"})
    assert other.status_code == 409
    assert "Another answer to this task was kept before" in other.text
    assert kept(study) == [("1", "1", "7", "2", "4")]


def test_many_at_once_are_one_answer_each(study: Path, links: list[str]) -> None:
    with ThreadPoolExecutor(12) as pool:
        codes = list(pool.map(lambda at: send(links[at % 3], 1 + at // 3 % 2).status_code, range(36)))
    assert set(codes) <= {303, 403}, "a form of an answered task has no token, so that it is not taken"
    assert sorted(kept(study)) == [(str(rater), str(task), "7", "2", "4") for rater in (1, 2, 3) for task in (1, 2)]


def test_what_is_missing_or_off_its_scale_is_said_beside_the_question(study: Path, links: list[str]) -> None:
    sent = send(links[0], 1, image="", confidence="6")
    assert sent.status_code == 422
    assert sent.text.count("Choose a number from 1 to 10. How important is the image to the model?") == 2
    assert "Choose a number from 1 to 5." in sent.text
    assert re.search(r'name="concept" value="2" checked', sent.text), "what was right stays chosen"
    assert 'href="#image"' in sent.text
    assert 'id="image"' in sent.text
    assert kept(study) == []


@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ({}, "", 403),
        ({}, "0" * 64, 403),
        ({"Origin": "https://evil.example"}, None, 403),
        ({"Origin": "null"}, None, 403),
    ],
)
def test_a_form_of_another_site_is_not_taken(
    study: Path, links: list[str], headers: dict[str, str], token: str | None, status: int
) -> None:
    page = httpx2.get(f"{links[0]}/1").text
    (own,) = re.findall(r'name="token" value="([^"]+)"', page)
    sent = httpx2.post(f"{links[0]}/1", data=GOOD | {"token": own if token is None else token}, headers=headers)
    assert sent.status_code == status
    assert kept(study) == []
    of_another = send(links[1], 1, token=own)
    assert of_another.status_code == 403, "a token is of one rater's link"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/r",
        "/r/x",
        "/r/{token}/0",
        "/r/{token}/7",
        "/r/{token}/1/2",
        "/r/{token}/²",
        "/links.csv",
        "/../study.json",
    ],
)
def test_there_is_nothing_else(links: list[str], path: str) -> None:
    root, token = links[0].split("/r/")
    for method in ("GET", "POST"):
        answered = httpx2.request(method, root + path.format(token=token), data=GOOD if method == "POST" else None)
        assert answered.status_code == 404
        assert "There is no such page" in answered.text


def test_pages_may_run_nothing_and_stay_nowhere(links: list[str]) -> None:
    for page in (httpx2.get(links[0]), httpx2.get(f"{links[0]}/1"), httpx2.head(links[0])):
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "form-action 'self'" in policy
        assert "script" not in policy
        assert page.headers["Cache-Control"] == "no-store"
        assert "<script" not in page.text


@pytest.mark.parametrize(
    "raw",
    [
        b"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
        b"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST {path} HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n\xff\xfe",
        b"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n" + b"a=1&" * 15,
    ],
)
def test_a_body_that_is_no_form_is_refused(links: list[str], raw: bytes) -> None:
    at = httpx2.URL(links[0])
    assert at.port is not None
    with socket.create_connection((at.host, at.port), timeout=10) as wire:
        wire.sendall(raw.replace(b"{path}", f"{at.path}/1".encode()))
        assert wire.recv(100).startswith(b"HTTP/1.0 400")


def test_a_full_disk_is_said_and_leaves_no_half_line(
    study: Path, links: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(links[0], 1).status_code == 303

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(answers_module.os, "fsync", full)
    refused = send(links[0], 2)
    assert refused.status_code == 503
    assert "Your answer was not kept" in refused.text
    assert len(kept(study)) == 1
    monkeypatch.undo()
    assert send(links[0], 2).status_code == 303, "it is sent again, and is new"
    assert len(kept(study)) == 2


def test_one_process_has_a_study(study: Path, links: list[str]) -> None:
    with pytest.raises(ProblemError, match="Another process serves this study"):
        Answers(open_study(study))


def test_a_line_that_a_process_was_killed_in_is_taken_back(study: Path) -> None:
    folder = open_study(study)
    with Answers(folder) as answers:
        assert answers.keep(1, 1, Answer(image=7, concept=2, confidence=4)) == "new"
    whole = folder.answers.read_bytes()
    for end in (b"1,2,cab,sal", b"1", b'"'):
        folder.answers.write_bytes(whole + end)
        with Answers(folder) as answers:
            assert answers.of(1) == {1: Answer(image=7, concept=2, confidence=4)}
            assert answers.of(2) == {}
        assert folder.answers.read_bytes() == whole
    for begun in (b"", b"rater,ta"):
        folder.answers.write_bytes(begun)
        with Answers(folder) as answers:
            assert answers.of(1) == {}
        assert kept(study) == []


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["study", *map(str, arguments)])


def test_what_was_served_is_read(study: Path) -> None:
    with served(study) as links:
        send(links[0], 1)
    done = run("read", study)
    assert done.exit_code == 0
    assert "1 of 18 tasks were answered by 1 of 3 raters" in done.output
    with (study / "ratings.csv").open("a", encoding="utf-8") as file:
        file.write("1,1,,,,7,2,4\n")
    done = run("read", study)
    assert done.exit_code == 1
    assert re.search(
        r"answers.csv, line 2: not taken: rater 1 has answered task 1 in line \d+ of ratings.csv", done.output
    )


def test_links_are_secret_and_are_those_of_the_given_address(study: Path) -> None:
    with open_server(study, "127.0.0.1", 0, "https://study.example/people/") as server:
        text = server.links.read_text()
    assert text.count("https://study.example/people/r/") == 3
    assert server.links.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("spoil", "options", "sentence"),
    [
        ("tokens.csv", (), "does not have one token of at least 20 characters"),
        ("material.json", (), "its digest is another one"),
        ("study.json", (), "is not of a study of this version"),
        ("answers.csv", (), "it has no column"),
        (None, ("--host", "192.0.2.1"), "cannot be used"),
        (None, ("--url", "study.example"), "is no address of a site"),
        (None, ("--port", "99999"), "99999 is not in the range"),
    ],
)
def test_what_cannot_be_served_is_refused(
    study: Path, spoil: str | None, options: tuple[str, ...], sentence: str
) -> None:
    if spoil is not None:
        (study / spoil).write_text("{}\n")
    done = run("serve", study, *options)
    assert done.exit_code == 2
    assert sentence in done.output.replace("\n", " ")


@contextmanager
def process(study: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """`caveat study serve` as its own process, and the links of its raters."""
    command = [sys.executable, "-m", "caveat", "study", "serve", str(study)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert "Serving the forms at http://127.0.0.1:" in running.stdout.readline()
        try:
            yield running, [row["link"] for row in csv.DictReader((study / "links.csv").read_text().splitlines())]
        finally:
            running.kill()


@pytest.mark.slow
def test_nothing_that_was_confirmed_is_lost_when_it_is_killed(study: Path) -> None:
    """Three raters answer while the process is killed and started again, until all is answered."""
    confirmed: set[tuple[int, int]] = set()
    for _ in range(30):
        with process(study) as (running, links), ThreadPoolExecutor(3) as pool:
            before = len(confirmed)
            every = [pool.submit(answering, links[rater - 1], rater, confirmed) for rater in (1, 2, 3)]
            while len(confirmed) < before + 2 and not all(one.done() for one in every):
                time.sleep(0.002)
            running.send_signal(signal.SIGKILL)
            for one in every:
                one.result()
        known = {(int(one[0]), int(one[1])) for one in whole_lines(study)}
        assert confirmed <= known
        if len(confirmed) == 18:
            break
    assert len(kept(study)) == len(known) == 18


def answering(link: str, rater: int, confirmed: set[tuple[int, int]]) -> None:
    """Fills what is missing, until nobody answers any more."""
    try:
        for number in range(1, 7):
            if f'/{number}">missing' in httpx2.get(link).text:
                assert send(link, number).status_code == 303
            confirmed.add((rater, number))  # or it was kept in a process that died before it said so
    except httpx2.HTTPError:
        return


def whole_lines(study: Path) -> list[list[str]]:
    """The lines that end; a process may have been killed in the last one."""
    text = (study / "answers.csv").read_text()
    return list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))[1:]


@pytest.mark.slow
def test_ctrl_c_ends_it(study: Path) -> None:
    with process(study) as (running, links):
        assert send(links[0], 1).status_code == 303
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 0
        assert running.stdout is not None
        assert "Stopped." in running.stdout.read()
    assert len(kept(study)) == 1
