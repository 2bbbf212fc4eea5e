"""What a graph says about the columns of its inputs, and what follows for noise and for the layers to audit."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from caveat_worker.engine.autodiff.layers import choose_layers, list_layers
from caveat_worker.engine.autodiff.load import load
from caveat_worker.engine.autodiff.model import Model
from caveat_worker.engine.autodiff.noise import noise_for
from caveat_worker.engine.autodiff.target import Target
from caveat_worker.engine.onnx.columns import InputColumn, input_columns
from tests.pipelines import logistic_regression

CITIES = ("New York", "Paris", "Rome", "nan")
STRINGS = TensorProto.STRING


@pytest.fixture(scope="module", params=["ignore", "error"])
def pipeline(request: pytest.FixtureRequest) -> tuple[bool, Model]:
    """Whether the encoder stops at unknown values, and the model."""
    model = load(logistic_regression(request.param).SerializeToString())
    return request.param == "error", model


def graph_of(*nodes: onnx.NodeProto, width: int = 1, kind: int = STRINGS) -> ir.Model:
    """Nodes from an input `x` [n, width] to `y`."""
    inputs = [helper.make_tensor_value_info("x", kind, ["n", width])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    constants = [onnx.numpy_helper.from_array(np.array([i]), f"at{i}") for i in range(width)]
    return ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, constants)))


def encoder(reads: str, gives: str, *categories: str) -> onnx.NodeProto:
    return helper.make_node("OneHotEncoder", [reads], [gives], domain="ai.onnx.ml", cats_strings=categories)


def test_a_pipeline_shows_the_categories_of_its_columns(pipeline: tuple[bool, Model]) -> None:
    strict, model = pipeline
    columns = input_columns(model.ir)
    assert columns["home_city"] == (InputColumn(CITIES, strict, missing="nan"),)
    assert columns["sex"] == (InputColumn(("female", "male"), strict),)


def test_a_pipeline_shows_which_missing_numbers_it_fills_in(pipeline: tuple[bool, Model]) -> None:
    columns = input_columns(pipeline[1].ir)
    assert [columns[name][0].takes_nan for name in ("income", "age", "Children")] == [True, True, False]


def test_columns_are_followed_through_what_selects_and_joins_them() -> None:
    columns = input_columns(
        graph_of(
            helper.make_node("Gather", ["x", "at1"], ["second"], axis=1),
            helper.make_node("Gather", ["x", "at0"], ["first"], axis=1),
            helper.make_node("Concat", ["second", "first"], ["turned"], axis=1),
            helper.make_node("ArrayFeatureExtractor", ["turned", "at0"], ["again"], domain="ai.onnx.ml"),
            encoder("again", "y", "a", "b"),
            width=2,
        )
    )
    assert [one.categories for one in columns["x"]] == [(), ("a", "b")]


def test_the_text_that_an_imputer_replaces_stands_for_a_missing_one() -> None:
    zero = helper.make_node("LabelEncoder", ["x"], ["is"], domain="ai.onnx.ml", keys_strings=["?"], values_int64s=[1])
    nodes = [
        zero,
        helper.make_node("Cast", ["is"], ["hole"], to=TensorProto.BOOL),
        helper.make_node("Where", ["hole", "x", "x"], ["filled"]),
        encoder("filled", "y", "a", "b"),
    ]
    (column,) = input_columns(graph_of(*nodes))["x"]
    assert (column.categories, column.missing) == (("a", "b"), "?")
    assert column.knows("?")


def test_the_categories_of_a_computed_number_are_not_those_of_the_column() -> None:
    encode = helper.make_node("OneHotEncoder", ["twice"], ["y"], domain="ai.onnx.ml", cats_int64s=[2, 4])
    (column,) = input_columns(graph_of(helper.make_node("Add", ["x", "x"], ["twice"]), encode, kind=TensorProto.INT64))[
        "x"
    ]
    assert column.categories == ()


def test_noise_is_of_the_categories_that_the_graph_knows(pipeline: tuple[bool, Model]) -> None:
    feeds = noise_for(pipeline[1].ir, batch=50)
    assert feeds is not None
    assert set(feeds["home_city"].ravel()) == set(CITIES)
    assert feeds["home_city"].shape == (50, 1)
    assert feeds["Children"].dtype == np.int64


def test_a_column_that_no_encoder_reads_gets_words() -> None:
    feeds = noise_for(graph_of(helper.make_node("StringNormalizer", ["x"], ["y"])), batch=50)
    assert feeds is not None
    assert len(set(feeds["x"].ravel())) == 2


def test_a_pipeline_is_compared_with_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from caveat_worker.engine.autodiff import load as module
    from caveat_worker.engine.base.errors import InvalidInput

    def broken(model: ir.Model) -> ir.Model:
        lowered = lower(model)
        weights = next(v for v in lowered.graph.initializers.values() if v.const_value and v.const_value.size == 18)
        weights.const_value = ir.Tensor(-weights.const_value.numpy(), name=weights.name)  # type: ignore[union-attr]
        return lowered

    lower = module.lower
    monkeypatch.setattr(module, "lower", broken)
    with pytest.raises(InvalidInput, match="is different"):
        load(logistic_regression("error").SerializeToString())


def test_the_layer_to_audit_is_the_first_behind_all_encoders(pipeline: tuple[bool, Model]) -> None:
    _, model = pipeline
    target = Target("t", "output_probability", 1)
    (chosen,) = choose_layers(model, target)
    layers = {layer.tensor: layer for layer in list_layers(model, target)}
    assert chosen == "transformed_column"
    assert layers[chosen].shape[1] == 9
    assert all(layers[name].auditable for name in ("merged_columns", chosen))
