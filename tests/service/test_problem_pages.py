"""Problems lead to pages: every code that the sources raise has one, without a key, and answers link to it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import html5lib
import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from caveat.cli import cli
from caveat_service.errors import refuse
from caveat_spec import problem_codes
from tests.api import api

TOOL = Path(__file__).parents[2] / "tools" / "problems.py"


def test_the_committed_list_is_what_the_sources_say() -> None:
    assert runpy.run_path(str(TOOL))["main"](["--check"]) == 0


def test_every_code_has_a_page(client: FlaskClient) -> None:
    codes = problem_codes.codes()
    assert len(codes) > 200
    for code in codes:
        answered = client.get(f"/problems/{code}")
        assert answered.status_code == 200
        assert f"<code>{code}</code>" in answered.text
    html5lib.HTMLParser(strict=True).parse(answered.text)


@pytest.mark.parametrize(
    "code", ["blobs-full", "scratch-failing", "no-row-for-each-example", "not-a-tokenizer", "too-many-tasks"]
)
def test_a_code_that_is_put_together_or_has_a_name_is_listed(code: str) -> None:
    kind = problem_codes.kind(code)
    assert kind is not None
    assert kind.said


def test_an_answer_links_to_the_page_of_its_problem(client: FlaskClient) -> None:
    answered = client.get(f"/v1/audits/{'0' * 26}")
    (place,) = re.findall(r'<(/problems/[a-z-]+)>; rel="help"', answered.headers["Link"])
    assert answered.json["type"].endswith(place.rpartition("/")[2])
    assert "There is no such …." in client.get(place).text


def test_pages_need_no_key_and_unknown_codes_are_not_found(tmp_path: Path) -> None:
    with api(tmp_path, auth="keys") as app:
        browser = app.test_client()
        assert browser.get("/problems/not-found").status_code == 200
        assert browser.get("/problems/nonsense").status_code == 404
        assert browser.get("/problems/%3Cscript%3E").status_code == 404
        assert browser.get("/problems/a/../../v1/audits").status_code in (401, 404)


@pytest.mark.parametrize("code", ["not-enough", "quota-bytes", "urn:caveat:problem:quota-bytes"])
def test_the_command_says_the_same_or_what_is_written_alike(code: str) -> None:
    done = CliRunner().invoke(cli, ["explain-error", code])
    if code == "not-enough":
        assert done.exit_code == 2
        assert "Written alike: " in done.output
    else:
        assert done.output.startswith("Quota bytes (status 413)")
        assert "Remedy: Ask an operator to raise the limit" in done.output


def test_a_new_problem_is_found_where_it_is_raised() -> None:
    """The list is made of the calls themselves: the code of `not_found` is there with its sentence."""
    assert problem_codes.kind("not-found") is not None
    assert refuse("not-found", 404, "", "").problem.code == "not-found"
