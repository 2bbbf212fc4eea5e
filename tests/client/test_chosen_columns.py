"""Which columns of a table a drafted audit takes for the model's inputs, and what it says where that is a guess."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
from click.testing import CliRunner

from caveat.cli import cli
from caveat.scaffold.columns import read_columns
from caveat.scaffold.features import choose_features, unfitting
from caveat_spec.artifacts import Tensor
from tests.client.first_audits import bits, mlp, numbers, table

ROWS = 60
CELLS = {
    "": [str(row) for row in range(ROWS)],
    "customer_id": [str(row + 10**15) for row in range(ROWS)],
    "store_id": [str(row % 4) for row in range(ROWS)],
    "age": [str(20 + row * 7 % 50) for row in range(ROWS)],
    "income": [f"{20000 + row * 37.5:.2f}" for row in range(ROWS)],
    "male": [str(row % 2) for row in range(ROWS)],
    "married": ["yes" if row % 3 else "no" for row in range(ROWS)],
    "approved": [str(row // 2 % 2) for row in range(ROWS)],
    "written": [f"{20 + row},{row * 7 % 1000:03d}" for row in range(ROWS)],
    "price": [f"{row * 1.25:.2f}" for row in range(ROWS)],
    "class": [str(row % 5) for row in range(ROWS)],
}


@pytest.mark.parametrize(
    ("columns", "classes", "expected"),
    [
        (["", "age", "income", "male", "approved"], True, ["age", "income", "male"]),
        (["approved", "male", "age", "income"], True, ["male", "age", "income"]),
        (["customer_id", "age", "income", "male", "approved"], True, ["age", "income", "male"]),
        (["store_id", "age", "male", "approved"], True, ["store_id", "age", "male"]),
        (["age", "income", "married", "approved"], True, ["age", "income", "married=yes"]),
        (["age", "class", "male", "price"], False, ["age", "class", "male"]),
        (["age", "price", "male", "class"], True, ["age", "price", "male"]),
        (["age", "income", "male"], True, ["age", "income", "male"]),
    ],
)
def test_no_input_is_left_out_for_a_row_number_or_for_its_name(
    tmp_path: Path, columns: list[str], classes: bool, expected: list[str]
) -> None:
    """Three numbers a row: pandas's index and an identifier are none of them, income beside `approved` is one."""
    chosen = choose_features(_table(tmp_path, columns), [_three_numbers()], classes=classes)
    assert chosen is not None
    assert list(chosen.names) == expected


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (["age", "male", "approved"], "`approved` is taken for an input, because"),
        (["customer_id", "age", "male", "approved"], "`approved` is taken for an input, because"),
        (["customer_id", "age", "male"], "`customer_id` is taken for an input, because"),
        (["age", "male", "written", "approved"], "`written` is read as text, such as '20,000'; write"),
    ],
)
def test_an_unlikely_input_is_to_check(tmp_path: Path, columns: list[str], sentence: str) -> None:
    chosen = choose_features(_table(tmp_path, columns), [_three_numbers()])
    assert chosen is not None
    assert sentence in " ".join(chosen.to_check)


def test_numbers_that_are_written_as_texts_are_named(tmp_path: Path) -> None:
    """A table that does not fit for want of a column that only people read as numbers."""
    found = _table(tmp_path, ["age", "written"])
    assert choose_features(found, [_three_numbers()]) is None
    assert "But `written` is read as text, such as '20,000'; write its numbers as 1234.5." in unfitting(
        found, [_three_numbers()]
    )


def test_guessed_columns_with_answers_against_the_label_are_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorded outcome is the opposite of what the model says; where it is the same, nothing is doubted."""
    monkeypatch.chdir(tmp_path)
    mlp(tmp_path, 3, 2)
    inputs = {"saved": [(x - 5) * 20 for x in numbers(1)], "debt": [(x - 5) * 20 for x in numbers(2)], "sex": bits(3)}
    rows = [list(map(float, row)) for row in zip(*inputs.values(), strict=True)]
    scores = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": rows})[0]
    decided = (scores[:, 1] > scores[:, 0]).astype(int)
    assert 0 < decided.sum() < len(decided)
    for outcome, doubted in ((1 - decided, True), (decided, False)):
        table(tmp_path, {**inputs, "approved": [str(one) for one in outcome]})
        done = CliRunner().invoke(cli, ["init", "model.onnx", "--force"])
        assert done.exit_code == 0, done.output
        said = " ".join(done.output.split())
        assert ("selects rows with `approved` no more often than rows without it" in said) == doubted, said


def _three_numbers() -> Tensor:
    return Tensor(name="x", dtype="float32", shape=[None, 3])


def _table(folder: Path, columns: list[str]):
    path = folder / "data.csv"
    quoted = [[f'"{CELLS[name][row]}"' for name in columns] for row in range(ROWS)]
    path.write_text("\n".join([",".join(columns), *map(",".join, quoted)]) + "\n")
    found = read_columns(path)
    assert found is not None
    return found
