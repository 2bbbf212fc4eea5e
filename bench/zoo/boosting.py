"""Gradient boosting by XGBoost, LightGBM and CatBoost, by onnxmltools and CatBoost's own exporter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import catboost
import lightgbm
import onnx
import onnxmltools
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType

from bench.zoo import data
from bench.zoo.collection import model

WITH_RACE = [*data.NUMBERS, "white"]


def _loans(folder: Path) -> tuple[Any, Any]:
    frame = data.loans(folder)
    return data.columns(frame, WITH_RACE), frame["approved"].astype(int).to_numpy()


def _wages(folder: Path) -> tuple[Any, Any]:
    frame = data.wages(folder)
    return data.columns(frame, frame.columns[:-1]), frame["wage"].to_numpy()


def _iris(folder: Path) -> tuple[Any, Any]:
    frame = data.bundled("iris", folder)
    return data.columns(frame, frame.columns[:-1]), frame["target"].to_numpy()


def _types(rows: Any) -> list[Any]:
    return [("input", FloatTensorType([None, rows.shape[1]]))]


def _xgboost(fitted: Any, rows: Any, folder: Path) -> None:
    onnx.save(onnxmltools.convert_xgboost(fitted, initial_types=_types(rows)), folder / "model.onnx")


def _lightgbm(fitted: Any, rows: Any, folder: Path, **options: Any) -> None:
    onnx.save(onnxmltools.convert_lightgbm(fitted, initial_types=_types(rows), **options), folder / "model.onnx")


@model("XGBoost", "XGBClassifier, mortgage decisions")
def xgboost_loans(folder: Path) -> None:
    rows, answer = _loans(folder)
    _xgboost(xgboost.XGBClassifier(n_estimators=60).fit(rows, answer), rows, folder)


@model("XGBoost", "XGBClassifier of three kinds of iris")
def xgboost_iris(folder: Path) -> None:
    rows, answer = _iris(folder)
    _xgboost(xgboost.XGBClassifier(n_estimators=20).fit(rows, answer), rows, folder)


@model("XGBoost", "XGBRegressor of wages")
def xgboost_wages(folder: Path) -> None:
    rows, answer = _wages(folder)
    _xgboost(xgboost.XGBRegressor(n_estimators=60).fit(rows, answer), rows, folder)


@model("LightGBM", "LGBMClassifier, mortgage decisions")
def lightgbm_loans(folder: Path) -> None:
    rows, answer = _loans(folder)
    _lightgbm(lightgbm.LGBMClassifier(n_estimators=60, verbose=-1).fit(rows, answer), rows, folder)


@model("LightGBM", "LGBMClassifier of iris, without ZipMap")
def lightgbm_iris(folder: Path) -> None:
    rows, answer = _iris(folder)
    fitted = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1).fit(rows, answer)
    _lightgbm(fitted, rows, folder, zipmap=False)


@model("LightGBM", "LGBMRegressor of wages")
def lightgbm_wages(folder: Path) -> None:
    rows, answer = _wages(folder)
    _lightgbm(lightgbm.LGBMRegressor(n_estimators=60, verbose=-1).fit(rows, answer), rows, folder)


@model("CatBoost", "CatBoostClassifier, mortgage decisions")
def catboost_loans(folder: Path) -> None:
    rows, answer = _loans(folder)
    fitted = catboost.CatBoostClassifier(100, verbose=0, random_seed=0, allow_writing_files=False).fit(rows, answer)
    fitted.save_model(str(folder / "model.onnx"), format="onnx")


@model("CatBoost", "CatBoostRegressor of wages")
def catboost_wages(folder: Path) -> None:
    rows, answer = _wages(folder)
    fitted = catboost.CatBoostRegressor(iterations=100, verbose=0, random_seed=0, allow_writing_files=False)
    fitted.fit(rows, answer).save_model(str(folder / "model.onnx"), format="onnx")
