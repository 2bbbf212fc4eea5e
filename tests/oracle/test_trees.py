"""Tables are scored by trees: what an audit measures of them is what their own libraries give on the edited table."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from catboost import CatBoostClassifier
from click.testing import CliRunner
from lightgbm import LGBMClassifier
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from xgboost import XGBClassifier

from caveat.cli import cli
from caveat_spec.report import Report
from caveat_worker.engine.statistics.scale import scale
from examples.loans.build import divided
from examples.loans.decisions import APPROVED, FEATURES, RACE, decisions, write_table

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

COLUMNS = [*(feature.name for feature in (*FEATURES, RACE)), "male"]
SETTINGS = {"race": ("white", 0.0, 1.0), "sex": ("male", 0.0, 1.0)}
"""Concept → the column that is set, its value with the concept, and without."""
TOLERANCE = 0.1
EXACT = 1e-5
TIED = {"nearest neighbours": 5e-4, "support vectors": 2e-4}
"""How far a library may be off: free to choose among neighbours at the same distance, or in search of probabilities."""
SCALES = {"support vectors": "probability"}
"""Where a score comes before the probabilities that the library gives."""
SETTLED = {"XGBoost", "LightGBM", "random forest"}
"""Those whose effect of race is far enough from the tolerance for its whole interval to lie beyond."""
Predict = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def loans(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """The table of decisions, as a file and as a frame; the applicant's sex is a number.

    Numbers are rounded to 64ths, so that those halfway between two are exact in float32 too: LightGBM asks at such
    numbers in float64, and a tree in ONNX holds float32, on whose last bit four applicants would depend.
    """
    folder = tmp_path_factory.mktemp("loans")
    rows = [{**row, "male": float(row["sex"] == "male")} for row in divided(decisions())]
    rounded = [
        {name: round(one * 64) / 64 if isinstance(one, float) else one for name, one in row.items()} for row in rows
    ]
    write_table(rounded, folder / "loans.csv")
    return folder, pd.read_csv(folder / "loans.csv")


def xgboost(x: np.ndarray, y: np.ndarray, path: Path) -> Predict:
    fitted = XGBClassifier(n_estimators=80, max_depth=4).fit(x, y)
    onnx.save(convert_xgboost(fitted, initial_types=_inputs(x)), path)
    return fitted.predict_proba


def lightgbm(x: np.ndarray, y: np.ndarray, path: Path) -> Predict:
    fitted = LGBMClassifier(n_estimators=80, verbose=-1).fit(x, y)
    onnx.save(convert_lightgbm(fitted, initial_types=_inputs(x)), path)
    return fitted.predict_proba


def catboost(x: np.ndarray, y: np.ndarray, path: Path) -> Predict:
    fitted = CatBoostClassifier(iterations=80, verbose=0, allow_writing_files=False, random_seed=0).fit(x, y)
    fitted.save_model(str(path), format="onnx")
    return fitted.predict_proba


def of_scikit_learn(estimator: Any) -> Callable[[np.ndarray, np.ndarray, Path], Predict]:
    def fit(x: np.ndarray, y: np.ndarray, path: Path) -> Predict:
        fitted = estimator.fit(x, y)
        onnx.save(to_onnx(fitted, x[:1]), path)
        return fitted.predict_proba

    return fit


FITS = {
    "XGBoost": xgboost,
    "LightGBM": lightgbm,
    "CatBoost": catboost,
    "random forest": of_scikit_learn(RandomForestClassifier(60, random_state=0)),
    "gradient boosting": of_scikit_learn(GradientBoostingClassifier(random_state=0)),
    "support vectors": of_scikit_learn(SVC(probability=True, random_state=0)),
    "nearest neighbours": of_scikit_learn(KNeighborsClassifier(25)),
}


@pytest.mark.parametrize("name", FITS)
def test_counterfactual_race_and_sex_change_what_the_library_says(
    name: str, loans: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    folder, table = loans
    training, unseen = (table[table.part == part] for part in ("train", "test"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predict = FITS[name](_numbers(training), training[APPROVED].to_numpy(int), tmp_path / "model.onnx")
    report = _audited(tmp_path, folder / "loans.csv", SCALES.get(name, "logit"))
    unit = scale(predict(_numbers(unseen))[:, 1].astype(float))
    for concept, (column, value, other) in SETTINGS.items():
        with_concept, without = (
            predict(_numbers(unseen.assign(**{column: each})))[:, 1].astype(float) for each in (value, other)
        )
        change = float((with_concept - without).mean())
        (measured,) = [test for test in report.interventions if test.concept == concept]
        assert measured.effect.value == pytest.approx(change, abs=TIED.get(name, EXACT))
        assert measured.effect.in_sd == pytest.approx(change / unit, abs=5e-3)
        (line,) = [line for line in report.verdict.lines if line.subject.startswith(concept)]
        matters = abs(change) / unit > TOLERANCE
        assert line.finding != ("not_influential" if matters else "influential")
        if name in SETTLED:
            assert (line.finding == "influential") == matters


def _audited(folder: Path, table: Path, scale: str) -> Report:
    """The audit of a model that reads the columns, through the gate."""
    people = {"table": str(table), "features": COLUMNS, "where": "part == 'test'"}
    examples: dict[str, Any] = {"people": people}
    for concept, (column, value, other) in SETTINGS.items():
        examples[f"not_{concept}"] = {**people, "set": {column: other}}
        examples[concept] = {**people, "set": {column: value}, "pairs_with": f"not_{concept}"}
    line = {"target": "approval", "must": "not_matter", "tolerance": TOLERANCE}
    audit = {
        "model": "model.onnx",
        "examples": examples,
        "concepts": {concept: {"examples": concept, "against": f"not_{concept}"} for concept in SETTINGS},
        "targets": {"approval": {"class": 1, "scale": scale, "examples": "people"}},
        "gate": [{"concept": one, **line} for one in SETTINGS],
    }
    (folder / "audit.json").write_text(json.dumps(audit))
    arguments = ["gate", str(folder / "audit.json"), "--local", "--json", str(folder / "report.json")]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code in (0, 1, 4), result.output
    return Report.model_validate_json((folder / "report.json").read_bytes())


def _numbers(table: pd.DataFrame) -> np.ndarray:
    return np.asarray(table[COLUMNS].to_numpy(np.float32))


def _inputs(x: np.ndarray) -> list[tuple[str, FloatTensorType]]:
    return [("input", FloatTensorType([None, x.shape[1]]))]
