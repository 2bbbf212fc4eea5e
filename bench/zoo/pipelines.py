"""Pipelines of scikit-learn with a ColumnTransformer: one input a column, numbers, texts and missing values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from bench.zoo import data
from bench.zoo.collection import model

NAMES = ["race", "sex"]


def _applicants(folder: Path) -> tuple[pd.DataFrame, Any]:
    """Loans with race and sex as words; numbers are float32, as skl2onnx wants them."""
    frame = data.loans(folder)
    given = frame[[*data.NUMBERS, *NAMES]].astype(dict.fromkeys(data.NUMBERS, np.float32))
    return given, frame["approved"].astype(int)


def _export(fitted: Pipeline, given: pd.DataFrame, folder: Path) -> None:
    onnx.save(to_onnx(fitted, given[:1]), folder / "model.onnx")


@model("scikit-learn", "Pipeline: StandardScaler and OneHotEncoder, LogisticRegression", quick=True)
def pipeline_logistic(folder: Path) -> None:
    given, answer = _applicants(folder)
    encode = ColumnTransformer([("numbers", StandardScaler(), data.NUMBERS), ("names", OneHotEncoder(), NAMES)])
    _export(make_pipeline(encode, LogisticRegression(max_iter=1000)).fit(given, answer), given, folder)


@model("scikit-learn", "Pipeline: SimpleImputer of missing values, OneHotEncoder, RandomForestClassifier")
def pipeline_forest(folder: Path) -> None:
    given, answer = _applicants(folder)
    given.loc[::17, "debt_ratio"] = np.nan
    given.assign(approved=answer).to_csv(folder / "loans.csv", index=False)
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    encode = ColumnTransformer([("numbers", numbers, data.NUMBERS), ("names", OneHotEncoder(), NAMES)])
    _export(make_pipeline(encode, RandomForestClassifier(50, random_state=0)).fit(given, answer), given, folder)


@model("scikit-learn", "Pipeline: OrdinalEncoder, GradientBoostingClassifier")
def pipeline_boosting(folder: Path) -> None:
    given, answer = _applicants(folder)
    encode = ColumnTransformer([("names", OrdinalEncoder(), NAMES)], remainder="passthrough")
    _export(make_pipeline(encode, GradientBoostingClassifier(random_state=0)).fit(given, answer), given, folder)


@model("scikit-learn", "Pipeline: StandardScaler and OneHotEncoder, MLPClassifier")
def pipeline_mlp(folder: Path) -> None:
    given, answer = _applicants(folder)
    encode = ColumnTransformer([("numbers", StandardScaler(), data.NUMBERS), ("names", OneHotEncoder(), NAMES)])
    _export(
        make_pipeline(encode, MLPClassifier((32, 16), max_iter=500, random_state=0)).fit(given, answer), given, folder
    )
