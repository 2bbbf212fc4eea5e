from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.loans.build import MODELS, build

Row = dict[str, str]


def rows(folder: Path) -> list[Row]:
    with (folder / "loans.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def approval_ratio(decided: list[Row], approved: list[bool], column: str, group: str, reference: str) -> float:
    def rate(value: str) -> float:
        return float(np.mean([one for row, one in zip(decided, approved, strict=True) if row[column] == value]))

    return rate(group) / rate(reference)


def test_recorded_decisions_fail_four_fifths_by_race_and_pass_by_sex(loans_folder: Path) -> None:
    recorded = rows(loans_folder)
    approved = [row["approved"] == "1" for row in recorded]
    assert len(recorded) == 1989
    by_race = approval_ratio(recorded, approved, "race", "black or hispanic", "white")
    by_sex = approval_ratio(recorded, approved, "sex", "female", "male")
    assert by_race == pytest.approx(0.7791740)
    assert by_sex == pytest.approx(0.9833596)


def test_missing_values_are_settled(loans_folder: Path) -> None:
    recorded = rows(loans_folder)
    assert all(value != "" for row in recorded for value in row.values())
    assert sum(row["sex"] == "unknown" for row in recorded) == 15
    assert {row["meets_guidelines"] for row in recorded} == {"0", "1"}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_models_predict_decisions_that_they_have_not_seen(
    name: str, loans_folder: Path, open_network: Callable[[Path], Any]
) -> None:
    unseen = [row for row in rows(loans_folder) if row["part"] == "test"]
    logit = open_network(loans_folder / f"{name}.onnx")(
        np.array([[float(row[column]) for column in MODELS[name]] for row in unseen])
    )[:, 0]
    approved = np.array([row["approved"] == "1" for row in unseen])
    ranked_right = (logit[approved][:, None] > logit[~approved][None, :]).mean()  # area under the ROC curve
    assert ranked_right > 0.85


def test_telling_the_model_another_race_lowers_its_logit(
    loans_folder: Path, open_network: Callable[[Path], Any]
) -> None:
    name = "loans-with-race"
    network, column = open_network(loans_folder / f"{name}.onnx"), MODELS[name].index("white")
    applicants = np.array([[float(row[feature]) for feature in MODELS[name]] for row in rows(loans_folder)])
    white, other = applicants.copy(), applicants.copy()
    white[:, column], other[:, column] = 1, 0
    assert (network(other) - network(white)).mean() < -0.5


def test_the_same_build_gives_the_same_bytes(loans_folder: Path, tmp_path: Path) -> None:
    build(tmp_path)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_bytes() for path in loans_folder.iterdir()}
