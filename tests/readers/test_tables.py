"""Tables in CSV and Parquet, and the conditions that select rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from caveat_spec.audit import Table
from caveat_worker.engine.activations.requirements import ONLY
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.onnx.graph import TensorInfo
from caveat_worker.readers import rows
from caveat_worker.readers.registry import open_examples
from caveat_worker.readers.source import ExampleSource, ModelInputs
from tests.readers.conftest import at

ROWS = {"race": [1, 0, 1, 0], "income": [40.0, 50.5, None, 70.0], "city": ["Rome", "Bonn", "Rome", None]}


@pytest.fixture(params=["csv", "parquet"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"t.{request.param}"
    rows = pa.table(ROWS)
    if request.param == "csv":
        pyarrow.csv.write_csv(rows, path)
    else:
        pyarrow.parquet.write_table(rows, path)
    return path


def declared(**fields: object) -> Table:
    return Table.model_validate({"table": "x", "features": ["income", "race"], **fields})


def opened(examples: Table, path: Path) -> ExampleSource:
    """The set for a model with one input of float columns."""
    source = open_examples(examples, at(path), 0)
    assert source.fit is not None
    width = len(examples.features or ())
    return source.fit(ModelInputs((TensorInfo("x", (None, width), "float32"),), {}, {}))


def test_features_come_in_the_declared_order(table: Path) -> None:
    source = opened(declared(where="income > 0"), table)
    np.testing.assert_array_equal(source.load(range(3))[ONLY], np.array([[40, 1], [50.5, 0], [70, 0]], np.float32))
    assert source.names == ("row 1", "row 2", "row 4")


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("race == 1 and income <= 40", ["row 1"]),
        ("income != 40", ["row 2", "row 4"]),
        ("city == Rome and income >= 1e1", ["row 1"]),
        ("city != 'Rome' and income < 60", ["row 2"]),
        ("race == 1 and income < 45 or income > 60", ["row 1", "row 4"]),
        ("race == 1 and (income < 45 or income > 60)", ["row 1"]),
        ("income in [40, 70.0]", ["row 1", "row 4"]),
        ("income in [40]", ["row 1"]),
        ("city not in ['Bonn', Kiel] and income > 0", ["row 1"]),
        ("income > 0 and city is null", ["row 4"]),
        ("income is not null and city is not null", ["row 1", "row 2"]),
        ("income IS NOT NULL AND NOT race == 1", ["row 2", "row 4"]),
        ("not income <= 50", ["row 2", "row 4"]),
        ("not (race == 1 or income > 60)", ["row 2"]),
    ],
)
def test_conditions(table: Path, where: str, names: list[str]) -> None:
    assert list(opened(declared(where=where), table).names) == names


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("`net income` > 45", ["row 2", "row 3"]),
        ('"net income" > 45', ["row 2", "row 3"]),
        ("`and` == 'salt and (pepper)'", ["row 1"]),
        ('`and` == "salt or \'not\'" or `and` in ["x, y]"]', ["row 2", "row 3"]),
        ("größe >= 2", ["row 2", "row 3"]),
    ],
)
def test_names_and_texts_in_quotes_are_plain(tmp_path: Path, where: str, names: list[str]) -> None:
    rows = {"net income": [40, 50, 60], "and": ["salt and (pepper)", "salt or 'not'", "x, y]"], "größe": [1, 2, 3]}
    pyarrow.parquet.write_table(pa.table(rows), tmp_path / "t")
    source = open_examples(declared(features=["größe"], where=where), at(tmp_path / "t"), 0)
    assert list(source.names) == names


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("race = 1", "at '= 1', character 6"),
        ("race == 1 && income > 2", "at '&& income > 2', character 11"),
        ("(race == 1", "at its end: '\\)'"),
        ("race == 1 income > 2", "at 'income > 2', character 11: 'and' or 'or'"),
        ("race == and", "at 'and', character 9: a number, a word or a text"),
        ("race in 1", "at '1', character 9: '\\['"),
        ("race is 1", "at '1', character 9: 'null'"),
        ("", "at its end: a column"),
        ("city == 'Rome", "at ''Rome', character 9"),
        ("(" * 60 + "race == 1", "fewer than 50 parentheses"),
        ("not " * 60 + "race == 1", "fewer than 50 parentheses"),
        ("__import__('os') == 1", "names the column '__import__'"),
    ],
)
def test_an_error_points_at_the_place(table: Path, where: str, place: str) -> None:
    with pytest.raises(InvalidInput, match=place):
        open_examples(declared(where=where), at(table), 0)


def test_a_text_is_not_set_in_a_column_of_numbers(table: Path) -> None:
    with pytest.raises(InvalidInput, match="gives column 'race' the text 'white', and it holds numbers") as caught:
        opened(declared(set={"race": "white"}), table)
    assert caught.value.remedy == "Set a number that it holds, such as 0, 1."
    assert caught.value.pointer == "set"


def test_set_overwrites_after_where(table: Path) -> None:
    source = opened(declared(where="race == 0", set={"race": 1}), table)
    np.testing.assert_array_equal(source.load(range(2))[ONLY][:, 1], [1, 1])


def test_columns_can_be_read_beside_features(table: Path) -> None:
    source = opened(declared(where="income > 0"), table)
    assert source.columns is not None
    assert source.columns(["city"])["city"].tolist()[:2] == ["Rome", "Bonn"]
    with pytest.raises(InvalidInput, match="no column 'sex'"):
        source.columns(["sex"])


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        ({"features": ["income", "sex"]}, "missing-column", "no column 'sex'"),
        ({"where": "sex == 1"}, "missing-column", "names the column 'sex'"),
        ({"where": "race = 1"}, "unreadable-condition", "cannot be read at '= 1'"),
        ({"where": "race == one"}, "unreadable-condition", "with 'one'"),
        ({}, "not-a-number", "'income' has no number in row 3"),
        ({"features": ["city"]}, "not-a-number", "'city' has no number in row 1"),
    ],
)
def test_what_does_not_fit_is_refused(table: Path, fields: dict[str, object], code: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as caught:
        opened(declared(**fields), table)
    assert caught.value.code == code


@pytest.mark.parametrize("data", [b"", b"PAR1 and nothing more", b"a,b\n1,2,3\n", b"a,a\n1,2\n"])
def test_bytes_that_are_no_table_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(InvalidInput):
        opened(declared(features=["a"]), tmp_path / "t")


def test_a_category_becomes_a_column_of_its_own(table: Path) -> None:
    source = opened(declared(features=["city=Rome", "race=1"]), table)
    assert source.load(range(4))[ONLY].tolist() == [[1, 1], [0, 0], [1, 1], [0, 0]]
    edited = opened(declared(features=["city=Rome"], set={"city": "Rome"}), table)
    assert edited.load(range(4))[ONLY].tolist() == [[1]] * 4
    with pytest.raises(InvalidInput, match="no column 'town'"):
        opened(declared(features=["town=Rome"]), table)


def test_an_edit_in_other_letters_than_the_cells_is_refused(table: Path) -> None:
    """An encoder that ignores what it does not know would take ` rome` for no city at all."""
    with pytest.raises(InvalidInput, match="none of its cells has; they have 'Rome'") as caught:
        opened(declared(set={"city": " rome"}), table)
    assert caught.value.pointer == "set"
    assert len(opened(declared(where="income > 0", set={"city": "Kiel"}), table)) == 3, "another city may be meant"


def test_sets_of_one_file_share_the_table_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(rows, "_csv", lambda path, csv=rows._csv: read.append(path) or csv(path))
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    first, second = (opened(declared(features=["a"], where=where), path) for where in ("b == 2", "b == 4"))
    assert (first.names, second.names, read) == (("row 1",), ("row 2",), [path])
    path.write_text("a,b\n1,2\n3,4\n5,4\n")
    assert opened(declared(features=["a"], where="b == 4"), path).names == ("row 2", "row 3")
    assert read == [path, path]


def test_rows_are_alike_whatever_numbers_their_file_holds(tmp_path: Path) -> None:
    """Two people whose long numbers differ in their last digit are two; a row of a Parquet and of a CSV file is one."""
    (tmp_path / "a.csv").write_text("id,share,who\n9007199254740993,0.5,x\n9007199254740992,0.5,x\n3,2,y\n")
    ids = [9007199254740993, 3]
    shares = pa.array([0.5, 2], pa.float32())
    pa.parquet.write_table(pa.table({"id": ids, "share": shares, "who": ["x", "y"]}), tmp_path / "b.parquet")
    contents = [opened(declared(features=["share"]), tmp_path / name).contents for name in ("a.csv", "b.parquet")]
    assert contents[0] is not None
    assert contents[1] is not None
    (first, second, third), others = contents[0](), contents[1]()
    assert first != second
    assert [first, third] == others
