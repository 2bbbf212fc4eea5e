"""Pipelines of scikit-learn that take texts as they are: TF-IDF and a classifier, audited behind their encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import StringTensorType
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline

from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import Graph
from caveat_worker.engine.onnx.session import open_session
from tests.audits.conftest import Bench

UNKNOWN = "???"
"""A text without a word that the pipeline knows: a row of zeros."""


def reviews(count: int = 160) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    words = [
        f"{['lovely', 'boring'][i % 2]} film {' '.join(rng.choice(['plot', 'actor', 'music', 'The'], 5))}"
        for i in range(count)
    ]
    return pd.DataFrame({"review": words, "good": [1 - i % 2 for i in range(count)]})


def exported(path: Path, classifier: Any, shape: list[int | None]) -> Pipeline:
    frame = reviews()
    pipe = make_pipeline(TfidfVectorizer(), classifier).fit(frame.review, frame.good)
    onnx.save(convert_sklearn(pipe, initial_types=[("text", StringTensorType(shape))]), path)
    return pipe


@pytest.mark.parametrize("shape", [[None, 1], [None]], ids=["column", "list"])
@pytest.mark.parametrize("classifier", [LogisticRegression(), MultinomialNB()], ids=["logistic", "bayes"])
def test_texts_get_the_pipeline_s_own_probabilities(classifier: Any, shape: list[int | None], tmp_path: Path) -> None:
    """Upper case is lowered on any machine, and a text of unknown words is a row of zeros, not of NaN."""
    pipe = exported(tmp_path / "model.onnx", classifier, shape)
    texts = ["LOVELY Film", "boring plot", UNKNOWN]
    session = open_session(Graph(load(tmp_path / "model.onnx").ir), threads=1)
    array = np.array(texts, dtype=object).reshape([len(texts), *shape[1:]])
    found = session.run({"text": array})["output_probability"]
    np.testing.assert_allclose(found, pipe.predict_proba(texts), atol=1e-5)


@pytest.mark.parametrize("classifier", [LogisticRegression(), MultinomialNB()], ids=["logistic", "bayes"])
def test_a_text_pipeline_is_audited_from_a_table(
    classifier: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exported(tmp_path / "model.onnx", classifier, [None, 1])
    reviews().to_csv("reviews.csv", index=False)
    texts = {"table": "reviews.csv", "inputs": {"text": "review"}}
    bench = Bench(
        tmp_path,
        {
            "model": "model.onnx",
            "examples": {
                "all": texts,
                "lovely": {**texts, "where": "good == 1"},
                "boring": {**texts, "where": "good == 0"},
            },
            "concepts": {"praise": {"examples": "lovely", "against": "boring"}},
            "targets": {"good": {"output": "output_probability", "index": 1, "versus": 0, "examples": "all"}},
            "method": {"runs": 20, "permutations": 99, "bootstrap": 99},
            "gate": [{"concept": "praise", "target": "good", "must": "matter"}],
        },
    )
    report = bench.run()
    assert report.associations[0].effect.value > 0
    assert report.verdict.outcome == "pass", report.verdict


def test_a_forest_behind_tf_idf_says_how_texts_are_edited_and_that_then_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`set` would write one text into every row, so it is not what helps here."""
    monkeypatch.chdir(tmp_path)
    exported(tmp_path / "model.onnx", RandomForestClassifier(20, random_state=0), [None, 1])
    frame = reviews()
    frame.to_csv("reviews.csv", index=False)
    frame.assign(review=frame.review.str.replace("boring", "lovely")).to_csv("praised.csv", index=False)
    texts = {"table": "reviews.csv", "inputs": {"text": "review"}, "where": "good == 0"}
    bench = Bench(
        tmp_path,
        {
            "model": "model.onnx",
            "examples": {"all": texts, "lovely": {**texts, "where": "good == 1"}, "boring": texts},
            "concepts": {"praise": {"examples": "lovely", "against": "boring"}},
            "targets": {"good": {"output": "output_probability", "index": 1, "versus": 0, "examples": "all"}},
            "method": {"runs": 20, "permutations": 99, "bootstrap": 99},
            "gate": [{"concept": "praise", "target": "good", "must": "matter"}],
        },
    )
    with pytest.raises(InvalidInput) as caught:
        bench.run()
    assert "'set'" not in caught.value.remedy
    assert "from a file in which the concept was edited into each text" in caught.value.remedy
    bench.document["examples"]["lovely"] = {**texts, "table": "praised.csv", "pairs_with": "boring"}
    assert bench.run().verdict.outcome == "pass"
