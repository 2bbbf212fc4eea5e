"""`caveat annex`: the how-to's own blocks, and what is refused."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from caveat.attestation import make_keys, sign, signers
from caveat.cli import cli
from caveat_reports.canonical import canonical
from caveat_spec.attestation import Run
from tests.reports.test_annexes import SEX, comparison, of, single


def run_cli(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "file-an-annex.md"


@pytest.fixture
def filed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A report, its attestation and its key, under the names of the page."""
    monkeypatch.chdir(tmp_path)
    report = canonical(of([comparison("by_sex", ["gender"], {("1",): (50, 20), ("0",): (40, 20), ("x",): (7, 2)})]))
    Path("report.json").write_bytes(report)
    make_keys(Path("caveat"))
    now = datetime(2026, 3, 2, 10, 15, tzinfo=UTC)
    run = Run(audit=None, where="ci", started_at=now, finished_at=now)
    Path("report.dsse.json").write_bytes(sign(report, run, None, signers("caveat.key")))
    return tmp_path


def test_the_how_to_runs_as_it_stands(filed: Path) -> None:
    page = PAGE.read_text()
    filing = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "filing.yaml" in block)
    Path("filing.yaml").write_text(filing)
    (command,) = re.findall(r"```sh\ncaveat (.*?)```", page, re.DOTALL)
    done = run_cli(*shlex.split(command.replace("\\\n", "")))
    assert done.exit_code == 0, done.output
    assert "Summary of a bias audit:" in done.output
    assert "not recorded: Distribution date of the tool" in done.output
    written = Path("annex.html").read_text()
    assert "2026-03-02 (10:15 to 10:15 UTC)" in written
    assert "Male" in written
    assert "7 people of unknown sex." in Path("annex.csv").read_text()


@pytest.mark.parametrize(
    ("filing", "options", "sentence"),
    [
        ("fields: {auditors: x}", [], "no field 'auditors'"),
        ("field: {auditor: x}", [], "filing.yaml"),
        (None, ["--key", "caveat.pub"], "go together"),
        (None, ["--attestation", "report.dsse.json", "--key", "other.pub"], "does not hold"),
    ],
)
def test_a_bad_filing_is_refused_in_a_sentence(
    filed: Path, filing: str | None, options: list[str], sentence: str
) -> None:
    make_keys(Path("other"))
    if filing is not None:
        Path("filing.yaml").write_text(filing)
        options = ["--filing", "filing.yaml"]
    done = run_cli("annex", "report.json", "--kind", "ll144", "--html", "annex.html", *options)
    assert done.exit_code == 2
    assert sentence in done.output
    assert not Path("annex.html").exists()


def test_an_attestation_of_another_report_dates_nothing(filed: Path) -> None:
    Path("report.json").write_bytes(canonical(of([comparison("by_sex", ["sex"], single(SEX))])))
    done = run_cli(
        "annex", "report.json", "--kind", "ll144", "--attestation", "report.dsse.json", "--key", "caveat.pub"
    )
    assert done.exit_code == 2
    assert "report.json is not the report that was signed" in done.output
