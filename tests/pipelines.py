"""People in a table, and scikit-learn pipelines on their columns, exported by skl2onnx with one input a column."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import pandas as pd

TEXT, INTEGER, FLOAT = "string", "int64", "float"
COLUMNS = {"home city": TEXT, "sex": TEXT, "Children": INTEGER, "income": FLOAT, "age": FLOAT}


def people(count: int = 240, seed: int = 0) -> pd.DataFrame:
    """A frame of texts, integers and floats, a tenth of the cities and incomes missing."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "home city": rng.choice(["Rome", "Paris", "New York"], count).astype(object),
            "sex": rng.choice(["female", "male"], count).astype(object),
            "Children": rng.integers(0, 4, count),
            "income": rng.normal(50, 15, count).round(1),
            "age": rng.normal(40, 10, count).round(1),
        }
    )
    frame.loc[rng.random(count) < 0.1, "home city"] = np.nan
    frame.loc[rng.random(count) < 0.1, "income"] = np.nan
    return frame


def granted(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """A decision that depends on income and sex."""
    noise = np.random.default_rng(1).normal(0, 0.5, len(frame))
    score = (frame["income"].fillna(50) - 50) / 15 + 1.0 * (frame["sex"] == "male") + noise
    return (score > 0.5).to_numpy().astype(int)


def fitted(estimator: Any, frame: pd.DataFrame, unknown: str = "ignore") -> Any:
    """One-hot encoded texts, imputed and scaled numbers, and an estimator on top, trained."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["income", "age"]),
            ("children", StandardScaler(), ["Children"]),
            ("texts", OneHotEncoder(handle_unknown=unknown), ["home city", "sex"]),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_pipeline(columns, estimator).fit(frame, granted(frame))


def exported(pipeline: Any) -> onnx.ModelProto:
    """The pipeline as ONNX, by the converter's defaults but for the types of the columns."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    kinds = {TEXT: StringTensorType, INTEGER: Int64TensorType, FLOAT: FloatTensorType}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: onnx.ModelProto = convert_sklearn(
            pipeline, initial_types=[(name, kinds[kind]([None, 1])) for name, kind in COLUMNS.items()]
        )
    return model


def logistic_regression(unknown: str = "ignore") -> onnx.ModelProto:
    """The smallest pipeline, as ONNX."""
    from sklearn.linear_model import LogisticRegression

    return exported(fitted(LogisticRegression(), people(), unknown))
