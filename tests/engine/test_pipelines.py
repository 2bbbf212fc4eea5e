"""Pipelines of scikit-learn by their default export, whose files have something odd: each loads and has gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, PowerTransformer, StandardScaler

from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.target import Target

X, Y = load_breast_cancer(return_X_y=True)
X, Y = X[:200, :8].astype(np.float32), Y[:200]
TARGET = Target("t", index=0)


def opened(*steps: Any, **options: Any) -> Model:
    """The loaded export of a fitted pipeline; the load compares its outputs with the file's."""
    pipeline = make_pipeline(*steps).fit(X, Y)
    return load(to_onnx(pipeline, X[:1], **options).SerializeToString())


def failed(model: Model, tensor: str) -> list[str]:
    """What the gradient check has against a tensor, at rows of the table."""
    found = check_gradients(model, [tensor], [TARGET], {"X": X[:6]}, seed=0)
    return [check.explain(0.02) for check in found if not check.ok]


def test_an_output_of_one_score_that_is_declared_as_two_has_one() -> None:
    """The converter declares two for a RidgeClassifier, and the runtime only warns."""
    model = opened(StandardScaler(), RidgeClassifier(), options={"zipmap": False})
    assert [one.shape[1:] for one in model.outputs if one.dtype == "float32"] == [(1,)]
    assert failed(model, "variable") == []


def test_a_type_that_the_converter_leaves_open_is_found() -> None:
    """Of the places of neighbours."""
    model = opened(StandardScaler(), KNeighborsClassifier(), options={"zipmap": False})
    assert [one.name for one in model.outputs] == ["label", "probabilities"]


@pytest.mark.parametrize("opset", [12, 18])
@pytest.mark.parametrize("first", [SimpleImputer(strategy="most_frequent"), StandardScaler()], ids=str)
def test_categories_that_are_encoded_behind_another_step_do_not_end_the_process(first: Any, opset: int) -> None:
    """onnx's inference of shapes crashes on an encoder of what has no type."""
    options = {"target_opset": {"": opset, "ai.onnx.ml": 2}}
    pipeline = make_pipeline(first, OrdinalEncoder(), LogisticRegression(max_iter=5000)).fit(X, Y)
    content = to_onnx(pipeline, X[:1], **options).SerializeToString()
    assert "LabelEncoder" in {node.op_type for node in ModelProto.FromString(content).graph.node}
    states = list_layers(load(content), TARGET)
    assert any(state.auditable for state in states)


def test_a_branch_that_is_left_out_gives_no_gradient_that_is_no_number() -> None:
    """A power transform takes powers of negative numbers, and leaves them out."""
    model = opened(StandardScaler(), PowerTransformer(), LogisticRegression(max_iter=5000), options={"zipmap": False})
    assert failed(model, "variable") == []
