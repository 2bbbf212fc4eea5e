"""Pipelines of scikit-learn on texts, integers, floats and missing values, audited from the table of their training."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from caveat_reports.canonical import canonical
from caveat_spec.jobs import Division
from caveat_worker import pipeline, sharding
from caveat_worker.array_stores import cached, joined, scratch
from caveat_worker.engine.activations import batches
from caveat_worker.engine.base.errors import InvalidInput
from tests.audits.conftest import Bench
from tests.audits.test_shards import run_parts
from tests.pipelines import exported, fitted, people

AUDIT = """\
model: model.onnx
examples:
  everyone: {table: people.csv}
  as_women: {table: people.csv, set: {sex: female}}
  as_men: {table: people.csv, set: {sex: male}, pairs_with: as_women}
  romans: {table: people.csv, where: "`home city` == Rome"}
  parisians: {table: people.csv, where: "`home city` == Paris"}
concepts:
  male: {examples: as_men, against: as_women}
  rome: {examples: romans, against: parisians}
targets:
  granted: {output: output_probability, index: 1, scale: probability, examples: everyone}
method: {runs: 20, permutations: 199, bootstrap: 199}
gate:
  - {concept: male, target: granted, must: not_matter}
"""
ESTIMATORS = [
    LogisticRegression(),
    MLPClassifier((16, 8), max_iter=400, random_state=0),
    GradientBoostingClassifier(random_state=0),
    RandomForestClassifier(30, random_state=0),
]


@pytest.fixture(scope="module")
def trained() -> tuple[Any, bytes, pd.DataFrame]:
    """A small pipeline, as ONNX too, and the frame that it was trained on."""
    frame = people()
    pipe = fitted(MLPClassifier((6,), max_iter=20, random_state=0), frame)
    return pipe, exported(pipe).SerializeToString(), frame


@pytest.fixture
def bench(trained: tuple[Any, bytes, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    from caveat.yaml_source import read_document

    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(trained[1])
    trained[2].to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "audit.yaml").write_text(AUDIT)
    return Bench(tmp_path, read_document(tmp_path / "audit.yaml")[0])


def change(report: dict[str, Any]) -> float:
    """The measured change of the target by the first concept's intervention."""
    (test,) = [one for one in report["tests"] if (one["evidence"], one["concept"]) == ("intervention", "male")]
    value: float = test["effect"]["value"]
    return value


def expected(pipe: Any, frame: pd.DataFrame) -> float:
    """The same change by the library itself, on the frame."""
    male, female = (pipe.predict_proba(frame.assign(sex=sex))[:, 1] for sex in ("male", "female"))
    return float((male - female).mean())


def test_an_intervention_at_a_column_is_what_the_library_measures(
    bench: Bench, trained: tuple[Any, bytes, pd.DataFrame]
) -> None:
    report = bench.run()
    assert change(json.loads(canonical(report))) == pytest.approx(expected(trained[0], trained[2]), abs=1e-5)
    assert {test.layer for test in report.tests if test.layer} == {"transformed_column"}
    assert report.warnings == []


def test_the_columns_that_differ_in_a_pair_are_shown(bench: Bench) -> None:
    shown = {one.concept: one for one in bench.run().pairs}["male"]
    told = {each.what: (each.without, each.with_concept) for one in shown.shown for each in one.differences}
    assert told == {"sex": ("female", "male")}


def test_unknown_categories_are_a_warning_of_the_report(bench: Bench) -> None:
    bench.document["examples"]["romans"]["set"] = {"home city": "Bonn"}
    (warning,) = [one for one in bench.run().warnings if "does not know" in one]
    assert warning.startswith("In 'romans', column 'home city' holds values")


def test_a_set_that_does_not_fit_the_model_is_pointed_at(bench: Bench) -> None:
    bench.document["examples"]["as_men"]["inputs"] = {"age": "sex"}
    with pytest.raises(InvalidInput, match="'sex' has no number in row 1") as caught:
        bench.run()
    assert caught.value.pointer == "/examples/as_men"


def test_texts_go_through_the_cache(bench: Bench, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    first = bench.run(store=partial(cached, kept, tmp_path / "fresh"))
    for entry in (tmp_path / "fresh").glob("*.npy"):
        entry.rename(kept / entry.name)
    assert canonical(bench.run(store=partial(cached, kept, tmp_path / "fresh2"))) == canonical(first)


def test_texts_go_through_shards(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "LARGEST_BATCH", 64)
    audit, places = bench.settled()
    blob = places.__getitem__
    division = sharding.run_or_divide(audit, blob, lambda *_: None, threads=1, store=scratch, batches=4)
    assert isinstance(division, Division)
    pieces = run_parts(bench, division, tmp_path)
    report = pipeline.run(audit, blob, lambda *_: None, threads=1, store=lambda: joined(pieces, scratch()))
    assert canonical(report) == canonical(bench.run())


def command(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "caveat", *words], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: type(one).__name__)
def test_a_pipeline_goes_from_its_layers_to_its_gate(estimator: Any, tmp_path: Path) -> None:
    frame = people(400)
    pipe = fitted(estimator, frame)
    (tmp_path / "model.onnx").write_bytes(exported(pipe).SerializeToString())
    frame.to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "audit.yaml").write_text(AUDIT)
    listed = command("layers", "model.onnx", folder=tmp_path)
    assert "home_city  string" in listed.stdout
    done = command("gate", "audit.yaml", "--json", "report.json", folder=tmp_path)
    assert done.returncode in (1, 4), done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert change(report) == pytest.approx(expected(pipe, frame), abs=1e-5)
