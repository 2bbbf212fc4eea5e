"""Models that MLflow logged are fetched from its store by the names that it gives them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from caveat.pack import addressed
from caveat.remote_sources import SourceFault, fetch
from tests.needed import package

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a model that is registered as `loans`, and a table beside it; its id."""
    package("mlflow-skinny")
    import mlflow  # not among the packages of the quick tests

    folder = tmp_path_factory.mktemp("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = mlflow.create_experiment("loans", artifact_location=(folder / "artifacts").as_uri())
    with warnings.catch_warnings(), mlflow.start_run(experiment_id=experiment) as started:
        warnings.simplefilter("ignore")
        mlflow.onnx.log_model(_model(), name="model", registered_model_name="loans")
        mlflow.log_text("age,income\n31,20\n", "tables/people.csv")
        return str(started.info.run_id)


def _model() -> onnx.ModelProto:
    """A linear model whose weights MLflow writes beside it."""
    weights = np.arange(2048, dtype=np.float32).reshape(1024, 2)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("x", 1024), ("y", 2))
    ]
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return helper.make_model(
        helper.make_graph([node], "g", values[:1], values[1:], [numpy_helper.from_array(weights, "w")])
    )


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("source", ["models:/loans/1", "models:/loans/1/model.onnx"])
def test_a_registered_model_is_its_onnx_file(source: str, tmp_path: Path) -> None:
    path = fetch(source, tmp_path / "here")
    assert path.name == "model.onnx"
    digest = addressed(path)[1].removeprefix("sha256:")
    np.testing.assert_array_equal(
        numpy_helper.to_array(onnx.load(path).graph.initializer[0]), np.arange(2048).reshape(1024, 2)
    )
    again = fetch(f"{source}#sha256={digest}", tmp_path / "again")
    assert addressed(again)[1] == f"sha256:{digest}"
    with pytest.raises(SourceFault, match="has other bytes now"):
        fetch(f"{source}#sha256={'0' * 64}", tmp_path / "other")


@pytest.mark.parametrize("scheme", ["runs", "mlflow"])
def test_a_file_of_a_run(run: str, scheme: str, tmp_path: Path) -> None:
    assert fetch(f"{scheme}:/{run}/tables/people.csv", tmp_path / "here").read_text().startswith("age,income")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("models:/nothing/1", "cannot be fetched"),
        ("models:/loans/7", "cannot be fetched"),
        ("models:/loans/1/other.onnx", r"cannot be fetched \(there is no such file\)"),
        ("runs:/{run}/tables", "is a folder with 0 ONNX files: add the path of the file that is meant"),
    ],
)
def test_what_is_not_there_is_a_sentence(run: str, source: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceFault, match=words):
        fetch(source.format(run=run), tmp_path / "here")
