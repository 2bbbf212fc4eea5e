"""Support vector machines of scikit-learn: their scores are the runtime's, and gradients pass through them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper
from onnxruntime import InferenceSession
from scipy.special import expit
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM

from caveat_worker.engine.autodiff.differentiate import differentiate, expose
from caveat_worker.engine.autodiff.gradient_check import check_gradients
from caveat_worker.engine.autodiff.layers import list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.target import Target, resolve_target
from caveat_worker.engine.onnx.session import open_session

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")  # `probability`, which files still have
Floats = NDArray[np.float32]
KERNELS = ("rbf", "linear", "poly", "sigmoid")
NUMBERS: dict[str, tuple[Any, Any]] = {
    **{f"SVR {kernel}": (SVR(kernel=kernel, C=5), load_diabetes) for kernel in KERNELS},
    "NuSVR": (NuSVR(), load_diabetes),
    "SVC of two": (SVC(), load_breast_cancer),
    "linear SVC of two": (SVC(kernel="linear"), load_breast_cancer),
    "NuSVC of two": (NuSVC(nu=0.1), load_breast_cancer),
    "OneClassSVM": (OneClassSVM(nu=0.3), load_breast_cancer),
    **{f"SVC of three, {kernel}": (SVC(kernel=kernel), load_iris) for kernel in KERNELS},
}


def exported(machine: Any, data: Any) -> tuple[bytes, Floats]:
    """The default export of a pipeline, and some of the rows that it was fitted on."""
    x, y = data(return_X_y=True)
    x = x.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), machine).fit(x, y)
    return to_onnx(pipeline, x[:1]).SerializeToString(), x[::9]


def scores_of(content: bytes) -> str:
    """The tensor of an SVM's numbers: its last output."""
    nodes = ModelProto.FromString(content).graph.node
    return next(node.output[-1] for node in nodes if node.op_type.startswith("SVM"))


def by_the_runtime(content: bytes, x: Floats) -> Floats:
    """The same by ONNX Runtime's own operator."""
    proto = ModelProto.FromString(content)
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_empty_tensor_value_info(scores_of(content)))
    found: Floats = InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"X": x})[
        0
    ]
    return found


@pytest.mark.parametrize("name", NUMBERS)
def test_scores_are_the_runtimes_and_gradients_reach_the_columns(name: str) -> None:
    content, x = exported(*NUMBERS[name])
    model, tensor = load(content), scores_of(content)
    expected = by_the_runtime(content, x)
    found = open_session(expose(model, [tensor])).run({"X": x})[tensor]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    target = Target("t", output=tensor, index=0)
    layers = [state.tensor for state in list_layers(model, target) if state.auditable]
    checks = check_gradients(model, ["X", *layers[:2]], [target], {"X": x[:6]}, seed=0)
    assert [check.layer for check in checks if not check.ok] == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_probabilities_of_two_classes_are_a_sigmoid_of_one_score(kernel: str) -> None:
    """Which the runtime finds by a search that ends within half a percent of it."""
    content, x = exported(SVC(kernel=kernel, probability=True, random_state=0), load_breast_cancer)
    model, tensor = load(content), scores_of(content)
    found = open_session(expose(model, [tensor])).run({"X": x})[tensor]
    np.testing.assert_allclose(found, by_the_runtime(content, x), atol=0.0051)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    resolved = resolve_target(model, Target("t", index=1))
    assert resolved.link == "two_sigmoids"
    run = open_session(differentiate(model, ["X"], [Target("t", index=1)])).run({"X": x})
    np.testing.assert_allclose(expit(run["value/t"].ravel()), found[:, 1], atol=1e-5)
    checks = check_gradients(model, ["X"], [Target("t", index=1)], {"X": x[:6]}, seed=0)
    assert checks[0].ok, checks[0].explain(0.02)


def test_a_regression_by_support_vectors_is_one() -> None:
    content, _ = exported(*NUMBERS["NuSVR"])
    assert resolve_target(load(content), Target("t")).link == "values"


def test_probabilities_of_several_classes_stay_the_operators() -> None:
    content, x = exported(SVC(probability=True, random_state=0), load_iris)
    model, tensor = load(content), scores_of(content)
    found = open_session(expose(model, [tensor])).run({"X": x})[tensor]
    np.testing.assert_array_equal(found, by_the_runtime(content, x))
    (state,) = (one for one in list_layers(model, Target("t", index=0)) if one.tensor == "variable")
    assert not state.auditable
    assert "SVMClassifier" in str(state.reason)
