"""Writes the loan demo's inputs: a table of decisions, and one model with race as an input and one without.

python -m examples.loans.build [folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from examples.graph import save
from examples.loans.decisions import APPROVED, FEATURES, RACE, Decision, decisions, write_table
from examples.loans.model import to_onnx, train

FOLDER = Path(".caveat/demo/loans")
SEED = 20

UNSEEN_SHARE = 0.4
"""Share of the decisions that are kept out of training."""

MODELS = {
    "loans-with-race": [feature.name for feature in (*FEATURES, RACE)],
    "loans-without-race": [feature.name for feature in FEATURES],
}
"""Name → the columns that the model takes, in its order."""


def build(folder: Path) -> None:
    """Writes `loans.csv` and two ONNX files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = divided(decisions())
    write_table(rows, folder / "loans.csv")
    training = [row for row in rows if row["part"] == "train"]
    for name, columns in MODELS.items():
        features = np.array([[row[column] for column in columns] for row in training], dtype=np.float64)
        approved = np.array([row[APPROVED] for row in training], dtype=np.float64)
        save(to_onnx(train(features, approved)), folder / f"{name}.onnx")


def divided(rows: list[Decision]) -> list[Decision]:
    """The rows with a column `part`: `train`, or `test` for a random `UNSEEN_SHARE`."""
    order = np.random.default_rng(SEED).permutation(len(rows))
    unseen = set(order[: round(UNSEEN_SHARE * len(rows))].tolist())
    return [{**row, "part": "test" if number in unseen else "train"} for number, row in enumerate(rows)]


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
