"""`caveat.audit` of models of XGBoost, LightGBM, CatBoost and torch: what their libraries say is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import catboost
import lightgbm
import numpy as np
import pandas as pd
import pytest
import torch
import xgboost
from PIL import Image
from torch import nn

import caveat

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
COLUMNS = ["income", "debt", "race"]
FIT = {"bootstrap": 199, "permutations": 199, "runs": 20}


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"income": rng.normal(50, 10, 300), "race": rng.integers(0, 2, 300)})
    frame["debt"] = rng.normal(20, 5, 300)
    frame["approved"] = (frame.income - frame.debt - 4 * frame.race + rng.normal(0, 5, 300) > 28).astype(int)
    return frame


BOOSTED: dict[str, Callable[[], Any]] = {
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=20),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=20, verbose=-1),
    "catboost": lambda: catboost.CatBoostClassifier(20, verbose=0, allow_writing_files=False),
}


@pytest.mark.parametrize("library", BOOSTED)
def test_boosted_trees(people: pd.DataFrame, library: str) -> None:
    fitted = BOOSTED[library]().fit(people[COLUMNS], people.approved)
    result = caveat.audit(
        fitted,
        examples={
            "people": people,
            "white": {"table": people, "set": {"race": 0}},
            "black": {"table": people, "set": {"race": 1}, "pairs_with": "white"},
        },
        concepts={"race": {"examples": "black", "against": "white"}},
        targets={"approved": {"examples": "people", "index": 1, "scale": "probability"}},
        gate=[{"concept": "race", "target": "approved", "must": "not_matter"}],
        method=FIT,
        show_progress=False,
    )
    with_race, without = (fitted.predict_proba(people[COLUMNS].assign(race=one))[:, 1] for one in (1, 0))
    assert result.report.interventions[0].effect.value == pytest.approx((with_race - without).mean(), abs=2e-5)
    assert result.passes is False


WITH_CATEGORIES: dict[str, Callable[[], Any]] = {
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=2, enable_categorical=True),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=2, verbose=-1),
    "catboost": lambda: catboost.CatBoostClassifier(2, verbose=0, cat_features=["city"], allow_writing_files=False),
}


@pytest.mark.parametrize("library", WITH_CATEGORIES)
def test_categories_that_no_exporter_writes_are_named(people: pd.DataFrame, library: str) -> None:
    rows = people.assign(city=pd.Categorical(np.where(people.approved, "Rome", "Bonn")))
    fitted = WITH_CATEGORIES[library]().fit(rows[["income", "city"]], rows.approved)
    with pytest.raises(caveat.ProblemError, match=r"no categories, such as those of 'city'\. Train it on numbers"):
        caveat.audit(
            fitted,
            examples={"people": rows},
            groups={"by_race": {"examples": "people", "sensitive": ["race"], "decision": "approved"}},
            show_progress=False,
        )


def test_a_network_of_torch_sees_arrays(people: pd.DataFrame) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 2))
    rows = people[COLUMNS].to_numpy()
    with_race, without = rows.copy(), rows.copy()
    with_race[:, 2], without[:, 2] = 1, 0
    result = caveat.audit(
        network,
        examples={
            "all": torch.tensor(rows),
            "with": {"arrays": with_race, "pairs_with": "without"},
            "without": without,
        },
        concepts={"race": {"examples": "with", "against": "without"}},
        targets={"second": {"examples": "all", "index": 1}},
        method=FIT,
        show_progress=False,
    )
    assert network.training, "as it was before"
    with torch.no_grad():
        network.eval()
        change = network(torch.tensor(with_race, dtype=torch.float32)) - network(
            torch.tensor(without, dtype=torch.float32)
        )
    assert result.report.interventions[0].effect.value == pytest.approx(float(change[:, 1].mean()), rel=1e-4)


def test_a_network_of_torch_sees_pictures() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    rng = np.random.default_rng(0)
    plain = [Image.fromarray(rng.integers(0, 99, (24, 24, 3), dtype=np.uint8)) for _ in range(24)]
    marked = [one.copy() for one in plain]
    for picture in marked:
        picture.paste((255, 255, 255), (2, 2, 9, 9))
    how = {"preprocess": {"size": 24, "std": 255.0}}
    result = caveat.audit(
        network,
        examples={"plain": {"images": plain, **how}, "marked": {"images": marked, "pairs_with": "plain", **how}},
        concepts={"mark": {"examples": "marked", "against": "plain"}},
        targets={"first": {"examples": "plain", "index": 0}},
        method=FIT,
        show_progress=False,
    )

    def scores(pictures: list[Any]) -> Any:
        pixels = np.stack([np.asarray(one, np.float32).transpose(2, 0, 1) / 255 for one in pictures])
        with torch.no_grad():
            return network.eval()(torch.tensor(pixels))[:, 0]

    change = float((scores(marked) - scores(plain)).mean())
    assert result.report.interventions[0].effect.value == pytest.approx(change, rel=1e-3)


def test_a_network_that_does_not_take_the_examples_says_so() -> None:
    rows = np.zeros((40, 5))
    with pytest.raises(caveat.ProblemError, match="could not be exported to ONNX: mat1 and mat2 shapes cannot be"):
        caveat.audit(
            nn.Linear(3, 1),
            examples={"a": rows, "b": rows + 1},
            concepts={"c": {"examples": "a", "against": "b"}},
            targets={"t": {"examples": "a"}},
            show_progress=False,
        )
