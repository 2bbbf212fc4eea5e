"""A method is one file and one row: a toy that only the tests have runs wherever an audit goes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from caveat import terminal
from caveat_reports import html, junit, markdown, openmetrics, sarif
from caveat_reports.canonical import canonical
from caveat_spec.audit import Audit
from caveat_spec.jobs import Division
from caveat_spec.methods import MethodEntry, methods
from caveat_worker import sharding
from caveat_worker.array_stores import joined, scratch
from caveat_worker.engine.activations import batches, collect
from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench
from tests.audits.test_cache import Kept, _must_not_be_opened
from tests.audits.test_shards import run_parts

PLUGIN = Path(__file__).parent / "plugin" / "site-packages"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toy method, as if its package was installed."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    methods.cache_clear()
    yield
    methods.cache_clear()


@pytest.fixture
def toy(bench: Bench, installed: None) -> Bench:
    """The small audit, which asks for the toy method too."""
    bench.document["methods"] = {"mean_gap": {"factor": 50}}
    bench.document["concepts"] = {"ignored": bench.document["concepts"]["ignored"]}
    bench.document["examples"]["ignored"].pop("pairs_with")
    bench.document["gate"] = bench.document["gate"][1:]
    return bench


def test_its_results_stand_in_the_report_and_decide_the_gate(toy: Bench) -> None:
    report = toy.run()
    (test,) = [test for test in report.tests if test.method == "mean_gap"]
    assert (test.concept, test.target, test.layer) == ("ignored", "first", None)
    assert test.effect.p_corrected is not None
    assert test.effect.p_corrected >= test.effect.p
    (line,) = report.verdict.lines
    assert line.finding in ("influential", "inconclusive")
    assert "the model (mean gap)" in line.reason
    without = toy.document.pop("methods")
    assert toy.run().verdict.lines[0].reason != line.reason, f"{without} changes nothing"


def test_its_options_are_its_own(toy: Bench) -> None:
    toy.document["methods"] = {"mean_gap": {"factor": 1}}
    (once,) = [test for test in toy.run().tests if test.method == "mean_gap"]
    toy.document["methods"] = {"mean_gap": {"factor": 3}}
    (thrice,) = [test for test in toy.run().tests if test.method == "mean_gap"]
    assert thrice.effect.value == pytest.approx(3 * once.effect.value, rel=1e-5)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"mean_gap": {"factor": "much"}}, "/methods/mean_gap/factor "),
        ({"mean_gap": {"scale": 1}}, "/methods/mean_gap/scale "),
        ({"no_such": {}}, "/methods names 'no_such', which is not a method; there are: tcav, intervention, "),
    ],
)
def test_what_it_does_not_know_is_refused(toy: Bench, asked: dict[str, object], words: str) -> None:
    toy.document["methods"] = asked
    with pytest.raises(ValidationError, match=re.escape(words)):
        Audit.model_validate(toy.document)


def test_without_its_package_it_is_no_method(toy: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(PLUGIN)])
    methods.cache_clear()
    with pytest.raises(ValidationError, match="names 'mean_gap', which is not a method"):
        Audit.model_validate(toy.document)


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("nowhere.to_be_found", "tcav", r"cannot be imported \(No module named 'nowhere'\)"),
        ("caveat_worker.engine.methods.tcav", "mean_gap", r"cannot be imported \(module .* has no attribute"),
        ("caveat_worker.engine.methods.tcav", "SHOWN", "is of type int, not a method"),
    ],
)
def test_a_row_that_leads_to_no_method_is_refused(
    module: str, name: str, words: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = MethodEntry(name, "A broken one.", module=module, implied_by="concepts")
    monkeypatch.setattr("caveat_worker.engine.methods.methods", lambda: {name: row})
    with pytest.raises(InvalidInput, match=words) as refused:
        bench.run()
    assert (refused.value.code, refused.value.pointer) == ("broken-method", "/methods")


def test_shards_collect_what_it_requires(toy: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LARGEST_BATCH", 16)
    whole = canonical(toy.run())
    audit, places = toy.settled()
    division = sharding.run_or_divide(audit, places.__getitem__, lambda *_: None, threads=1, store=scratch, batches=2)
    assert isinstance(division, Division)
    pieces = run_parts(toy, division, toy.folder)
    monkeypatch.setattr(collect, "open_session", _must_not_be_opened)
    assert canonical(toy.run(store=partial(joined, pieces, scratch()))) == whole


def test_a_cache_keeps_what_it_requires(toy: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path / "kept")
    whole = canonical(toy.run(store=kept.store))
    monkeypatch.setattr(collect, "open_session", _must_not_be_opened)
    assert canonical(toy.run(store=kept.store)) == whole


def test_every_format_shows_it(toy: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    report = toy.run()
    page = html.render(report)
    assert page.count("the model (mean gap)") >= 3
    assert 'id="sameness"' in page
    for render in (markdown.render, openmetrics.render, junit.render, sarif.render):
        assert "the model (mean gap)" in render(report)
    terminal.show_verdict(report)
    assert "the model (mean gap)" in capsys.readouterr().out
    terminal.show_diff(report, report)
    assert "effect of ignored → first  " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.xdist_group("service")
def test_a_server_and_a_local_run_give_the_same_report(toy: Bench) -> None:
    (toy.folder / "audit.yaml").write_text(yaml.safe_dump(toy.document))
    told = os.environ | {"PYTHONPATH": os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")])}
    told.pop("CAVEAT_URL", None)
    caveat = [sys.executable, "-m", "caveat"]
    with subprocess.Popen(
        [*caveat, "up", "--port", "0"],
        cwd=toy.folder,
        env=told,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as up:
        try:
            assert up.stdout is not None
            lines = iter(up.stdout.readline, "")
            url = next(found[0] for line in lines if (found := re.search(r"http://[\d.]+:\d+", line)))
            for where, arguments in (("there", ["--url", url]), ("here", ["--local"])):
                ended = subprocess.run(
                    [*caveat, "gate", "audit.yaml", *arguments, "--json", f"{where}.json", "--html", f"{where}.html"],
                    cwd=toy.folder, env=told, capture_output=True, text=True, check=False,
                )  # fmt: skip
                assert ended.returncode in (1, 4), ended.stdout + ended.stderr
                assert "the model (mean gap)" in ended.stdout
        finally:
            up.terminate()
    assert (toy.folder / "there.json").read_bytes() == (toy.folder / "here.json").read_bytes()
    assert "the model (mean gap)" in (toy.folder / "there.html").read_text()
