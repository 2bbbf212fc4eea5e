"""Estimators of scikit-learn, by the defaults of skl2onnx, beside the table that they were fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from skl2onnx import to_onnx
from sklearn import discriminant_analysis, ensemble, linear_model, naive_bayes, neighbors, neural_network, svm, tree
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bench.zoo import data
from bench.zoo.collection import ExpectedRefusal, Make, model, named

WITH_RACE = [*data.NUMBERS, "white"]


def approval(estimator: Any, quick: bool = False) -> Make:
    """A model of recorded mortgage decisions, race among its columns, under the estimator's name."""

    def make(folder: Path) -> None:
        frame = data.loans(folder)
        rows = data.columns(frame, WITH_RACE)
        fitted = estimator.fit(rows, frame["approved"].astype(int))
        onnx.save(to_onnx(fitted, rows[:1]), folder / "model.onnx")

    kind = type(estimator).__name__
    return model("scikit-learn", f"{kind}, mortgage decisions", quick=quick)(named(make, kind))


approval(linear_model.LogisticRegression(max_iter=1000), quick=True)
approval(ensemble.RandomForestClassifier(50, random_state=0), quick=True)
approval(ensemble.GradientBoostingClassifier(random_state=0))
approval(ensemble.BaggingClassifier(random_state=0))
approval(ensemble.ExtraTreesClassifier(50, random_state=0))
approval(ensemble.AdaBoostClassifier(random_state=0))
approval(tree.DecisionTreeClassifier(max_depth=5, random_state=0), quick=True)
approval(svm.SVC(random_state=0))
approval(neighbors.KNeighborsClassifier())
approval(naive_bayes.GaussianNB())
approval(discriminant_analysis.LinearDiscriminantAnalysis())
approval(linear_model.SGDClassifier(random_state=0))


@model("scikit-learn", "MLPClassifier behind a StandardScaler, three kinds of iris", quick=True)
def mlp_iris(folder: Path) -> None:
    frame = data.bundled("iris", folder)
    rows = data.columns(frame, frame.columns[:-1])
    fitted = make_pipeline(StandardScaler(), neural_network.MLPClassifier(max_iter=2000, random_state=0))
    onnx.save(to_onnx(fitted.fit(rows, frame["target"]), rows[:1]), folder / "model.onnx")


@model("scikit-learn", "LogisticRegression behind a StandardScaler, tumours")
def logistic_tumours(folder: Path) -> None:
    frame = data.bundled("breast_cancer", folder)
    rows = data.columns(frame, frame.columns[:-1])
    fitted = make_pipeline(StandardScaler(), linear_model.LogisticRegression())
    onnx.save(to_onnx(fitted.fit(rows, frame["target"]), rows[:1]), folder / "model.onnx")


@model("scikit-learn", "RandomForestRegressor, diabetes a year later")
def forest_diabetes(folder: Path) -> None:
    frame = data.bundled("diabetes", folder)
    rows = data.columns(frame, frame.columns[:-1])
    fitted = ensemble.RandomForestRegressor(50, random_state=0).fit(rows, frame["target"])
    onnx.save(to_onnx(fitted, rows[:1]), folder / "model.onnx")


@model("scikit-learn", "LinearRegression of wages", quick=True)
def linear_wages(folder: Path) -> None:
    frame = data.wages(folder)
    rows = data.columns(frame, frame.columns[:-1])
    onnx.save(to_onnx(linear_model.LinearRegression().fit(rows, frame["wage"]), rows[:1]), folder / "model.onnx")


@model("scikit-learn", "MLPRegressor of wages")
def mlp_wages(folder: Path) -> None:
    frame = data.wages(folder)
    rows = data.columns(frame, frame.columns[:-1])
    fitted = neural_network.MLPRegressor(max_iter=2000, random_state=0).fit(rows, frame["wage"])
    onnx.save(to_onnx(fitted, rows[:1]), folder / "model.onnx")


@model("scikit-learn", "MultiOutputClassifier of two answers: approved, and within the lender's guidelines")
def two_answers(folder: Path) -> None:
    frame = data.loans(folder)
    names = [name for name in WITH_RACE if name != "meets_guidelines"]
    rows = data.columns(frame, names)
    fitted = MultiOutputClassifier(linear_model.LogisticRegression(max_iter=1000))
    fitted.fit(rows, frame[["approved", "meets_guidelines"]].astype(int).to_numpy())
    onnx.save(to_onnx(fitted, rows[:1]), folder / "model.onnx")


@model(
    "scikit-learn",
    "RandomForestClassifier of 8 × 8 digits, pixels as rows of an array",
    refusal=ExpectedRefusal(
        "No layer inside this model can be audited",
        "No gradient passes trees, and two sets of different digits are no matched pairs.",
    ),
)
def forest_digits(folder: Path) -> None:
    pictures, labels = data.digits()
    rows = pictures.reshape(len(pictures), -1)
    fitted = ensemble.RandomForestClassifier(50, random_state=0).fit(rows, labels)
    onnx.save(to_onnx(fitted, rows[:1]), folder / "model.onnx")
    data.arrays(folder, "eights", rows[labels == 8][:40], "all", rows[:200])


@model("scikit-learn", "IsolationForest of mortgage applicants")
def isolation_forest(folder: Path) -> None:
    frame = data.loans(folder)
    rows = data.columns(frame, WITH_RACE)
    fitted = ensemble.IsolationForest(n_estimators=30, random_state=0).fit(rows)
    onnx.save(to_onnx(fitted, rows[:1], target_opset={"": 15, "ai.onnx.ml": 3}), folder / "model.onnx")


@model("scikit-learn", "LogisticRegression without race and sex, options zipmap off, float64")
def logistic_double(folder: Path) -> None:
    frame = data.loans(folder)
    rows = frame[data.NUMBERS].to_numpy(np.float64)
    fitted = linear_model.LogisticRegression(max_iter=1000).fit(rows, frame["approved"].astype(int))
    onnx.save(to_onnx(fitted, rows[:1], options={"zipmap": False}), folder / "model.onnx")
