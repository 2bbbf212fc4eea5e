"""`caveat view`: the pages of reports in files, as a browser asks for them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from click.testing import CliRunner

from caveat import view
from caveat.cli import cli
from caveat_reports.canonical import canonical
from tests.api_spec import handmade


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("view")
    paths = [folder / "first.json", folder / "second.json"]
    for path in paths:
        path.write_bytes(canonical(handmade.report(handmade.row())))
    with view.server(view.read(paths), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/", "second.json"),
        ("/audits/1", "Open the report"),
        ("/audits/2/report", "Provenance"),
        ("/audits/1/history", "the oldest first"),
        ("/compare?before=1&now=2", "no figure moved beyond noise"),
    ],
)
def test_files_have_the_pages_of_the_console(url: str, path: str, words: str) -> None:
    answered = httpx2.get(url + path)
    assert answered.status_code == 200
    assert words in answered.text
    assert "Sign" not in answered.text
    assert answered.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/audits/3", "/audits/1/x", "/compare?now=1", "/models", "/../../etc/passwd"])
def test_there_is_nothing_else(url: str, path: str) -> None:
    answered = httpx2.get(url + path)
    assert answered.status_code == 404
    assert "root:" not in answered.text


def test_a_page_of_another_site_cannot_read_it(url: str) -> None:
    assert httpx2.get(url, headers={"Host": "evil.example"}).status_code == 404


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    done = CliRunner().invoke(cli, ["view", str(tmp_path / "x.json")])
    assert done.exit_code == 2
    assert "is not a report of this version of Caveat" in done.output
