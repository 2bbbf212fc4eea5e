"""Columns of a table as the inputs of a model: by name and type, with missing values and categories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from caveat_spec.audit import Table
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.columns import InputColumn
from caveat_worker.engine.onnx.graph import TensorInfo
from caveat_worker.readers.registry import open_examples
from caveat_worker.readers.source import ExampleSource, ModelInputs
from tests.readers.conftest import at

ROWS: dict[str, list[Any]] = {
    "home city": ["Rome", "Paris", None, "Rome"],
    "Children": [0, 2, 1, 3],
    "income": [40.5, None, 60.0, 70.0],
    "member": [True, False, True, True],
    "zip": [1, 2, 3, 4],
}
CITIES = InputColumn(("Paris", "Rome", "nan"), missing="nan")
FILLED = InputColumn(takes_nan=True)


@pytest.fixture(params=["csv", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return written(tmp_path / f"t.{request.param}", ROWS)


def written(path: Path, rows: dict[str, list[Any]]) -> Path:
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def fed(
    path: Path,
    *inputs: str,
    metadata: dict[str, str] | None = None,
    taken: dict[str, InputColumn] | None = None,
    **declared: Any,
) -> ExampleSource:
    """A set for a model whose inputs are given as `name:dtype` or `name:dtype:width`."""
    parts = [one.split(":") for one in inputs]
    tensors = tuple(TensorInfo(p[0], (None, int(p[2]) if len(p) > 2 else 1), p[1]) for p in parts)
    source = open_examples(Table.model_validate({"table": "x", **declared}), at(path), 0)
    assert source.fit is not None
    columns = {name: (one,) * 9 for name, one in (taken or {}).items()}
    return source.fit(ModelInputs(tensors, columns, metadata or {}))


def values(source: ExampleSource, name: str) -> list[Any]:
    return source.load(range(len(source)))[name].ravel().tolist()


def refusal(path: Path, *inputs: str, **declared: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        fed(path, *inputs, **declared)
    return caught.value


@pytest.mark.parametrize("name", ["Children", "children", "CHILDREN"])
def test_a_column_feeds_the_input_of_its_name(table: Path, name: str) -> None:
    source = fed(table, f"{name}:int64")
    assert source.shapes == {name: (1,)}
    assert values(source, name) == [0, 2, 1, 3]


def test_a_blank_is_matched_as_exporters_write_it(table: Path) -> None:
    assert values(fed(table, "home_city:object", where="income > 0", taken={"home_city": CITIES}), "home_city") == [
        "Rome",
        "nan",
        "Rome",
    ]


def test_two_columns_that_exporters_write_alike_are_not_guessed(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", {"a b": [1], "a_b": [2], "c": [3], "C": [4]})
    error = refusal(path, "a_b:int64")
    assert error.code == "ambiguous-column"
    assert "'a b' and 'a_b'" in error.sentence
    assert values(fed(path, "a_b:int64", inputs={"a_b": "a b"}), "a_b") == [1]
    assert values(fed(path, "c:int64"), "c") == [3]


def test_one_column_does_not_feed_two_inputs_unasked(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", {"age": [1]})
    assert "inputs 'age' and 'Age'" in refusal(path, "age:int64", "Age:int64").sentence


def test_an_input_without_a_column_is_named(table: Path) -> None:
    error = refusal(table, "Children:int64", "debt:float32")
    assert (error.code, "input 'debt'" in error.sentence, "{debt: COLUMN}" in error.remedy) == (
        "missing-column",
        True,
        True,
    )


def test_a_declared_input_takes_its_columns_in_order(table: Path) -> None:
    source = fed(table, "x:float32:2", "Children:int64", inputs={"x": ["zip", "Children"]})
    assert source.load([1])["x"].tolist() == [[2, 2]]
    assert values(source, "Children") == [0, 2, 1, 3]


def test_an_input_that_the_model_lacks_is_refused(table: Path) -> None:
    assert refusal(table, "zip:int64", inputs={"y": "zip"}).code == "unknown-input"


def test_features_feed_one_input_only(table: Path) -> None:
    error = refusal(table, "zip:int64", "Children:int64", features=["zip"])
    assert error.code == "several-inputs"
    assert "Leave 'features' out" in error.remedy


def test_columns_of_a_wide_input_are_not_guessed(table: Path) -> None:
    assert refusal(table, "x:float32:3").code == "columns-not-named"


@pytest.mark.parametrize("text", [json.dumps(["zip", "Children"]), "zip, Children", "zip\nChildren"])
def test_columns_of_a_wide_input_are_those_that_the_metadata_names(table: Path, text: str) -> None:
    source = fed(table, "x:float32:2", metadata={"feature_names": text})
    assert source.load([1])["x"].tolist() == [[2, 2]]
    assert source.warnings == ()


def test_features_in_another_order_than_at_training_are_a_warning(table: Path) -> None:
    metadata = {"feature_names": json.dumps(["zip", "Children"])}
    (warning,) = fed(table, "x:float32:2", metadata=metadata, features=["Children", "zip"]).warnings
    assert "'Children' in place 1, and the model's metadata 'zip'" in warning
    assert fed(table, "x:float32:2", metadata=metadata, features=["zip", "Children"]).warnings == ()


def test_without_names_in_the_model_the_order_of_the_table_is_the_likely_one(table: Path) -> None:
    (warning,) = fed(table, "x:float32:2", features=["zip", "Children"]).warnings
    assert "'zip' before 'Children', the table has them in the opposite order" in warning
    assert fed(table, "x:float32:2", features=["Children", "zip"]).warnings == ()
    assert fed(table, "x:float32:1", features=["zip"]).warnings == ()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", np.float32), ("float64", np.float64), ("int64", np.int64), ("bool", np.bool_), ("object", object)],
)
def test_a_column_has_the_type_of_its_input(table: Path, dtype: str, expected: type) -> None:
    assert fed(table, f"member:{dtype}").load([0])["member"].dtype == expected


def test_a_large_integer_keeps_its_last_digit(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", {"id": [2**60 + 1]})
    assert values(fed(path, "id:int64"), "id") == [2**60 + 1]


def test_a_missing_number_is_nan_where_the_model_fills_it_in(table: Path) -> None:
    assert np.isnan(values(fed(table, "income:float32", taken={"income": FILLED}), "income")[1])
    assert "fill in missing numbers" in refusal(table, "income:float32").sentence
    assert "'income' has no number in row 2" in refusal(table, "income:int64").sentence


def test_a_text_in_a_column_of_numbers_is_not_a_missing_number(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", {"income": ["40", "much"]})
    assert "row 2 ('much')" in refusal(path, "income:float32", taken={"income": FILLED}).sentence


def test_a_fraction_is_not_cut_to_an_integer(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", {"n": [1.0, 2.5]})
    assert "'n' has 2.5 in row 2" in refusal(path, "n:int64").sentence
    assert "0 or 1" in refusal(path, "n:bool").sentence


def test_a_missing_text_that_the_model_does_not_show_is_refused(table: Path) -> None:
    error = refusal(table, "home_city:object", taken={"home_city": InputColumn(("Paris", "Rome"))})
    assert error.code == "missing-text"
    assert "'home city' has no value in row 3, and in 1 of 4 rows" in error.sentence
    assert "'where'" in error.remedy


def test_unknown_categories_are_a_warning(table: Path) -> None:
    source = fed(table, "home_city:object", set={"home city": "Bonn"}, taken={"home_city": CITIES})
    assert source.warnings == ("column 'home city' holds values that the model's encoder does not know ('Bonn')",)


def test_unknown_categories_at_which_the_model_stops_are_refused(table: Path) -> None:
    strict = InputColumn(("Paris", "nan"), strict=True, missing="nan")
    error = refusal(table, "home_city:object", taken={"home_city": strict})
    assert error.code == "unknown-category"
    assert "'Rome' in row 1" in error.sentence
    assert "2 of 4 rows" in error.sentence
    assert refusal(table, "zip:int64", taken={"zip": InputColumn((1, 2, 3), strict=True)}).code == "unknown-category"


@pytest.mark.parametrize(("categories", "text"), [(("1", "2"), "1"), (("1.0", "2.0"), "1.0"), ((), "1")])
def test_a_number_is_written_as_the_encoder_knows_it(table: Path, categories: tuple[str, ...], text: str) -> None:
    taken = {"zip": InputColumn(categories)}
    assert values(fed(table, "zip:object", set={"zip": 1}, taken=taken), "zip") == [text] * 4


def test_a_set_column_feeds_its_input(table: Path) -> None:
    edited = fed(table, "home_city:object", set={"home city": "Paris"}, taken={"home_city": CITIES})
    assert values(edited, "home_city") == ["Paris"] * 4


def test_features_may_be_texts(table: Path) -> None:
    source = fed(table, "x:object:2", features=["home city", "zip"], where="zip < 3")
    assert source.load(range(2))[ONLY].tolist() == [["Rome", "1"], ["Paris", "2"]]


def test_features_and_inputs_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="either 'features'"):
        Table.model_validate({"table": "x", "features": ["a"], "inputs": {"x": "a"}})


def test_a_text_that_is_not_utf_8_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("city\nKöln\n".encode("latin-1"))
    refused = refusal(path, "city:object")
    assert "Column 'city' holds b'K\\xf6ln', which is not UTF-8." in str(refused)
    assert "iconv" in str(refused.remedy)
