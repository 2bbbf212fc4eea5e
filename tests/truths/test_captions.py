"""Over five seeds of training, audits order what networks read as the truth does (Kim et al. 2018, section 4.3)."""

from __future__ import annotations

import numpy as np
import pytest

from bench.validation.captions import Network, experiment, orders
from bench.validation.report import FEWEST_CORRELATION

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Network]:
    return experiment(tmp_path_factory.mktemp("captions"))


def test_no_verdict_is_wrong(networks: list[Network]) -> None:
    wrong = [of for one in networks for of in one.answers.facts if of.agreement in ("wrong", "other sign")]
    assert not wrong
    assert not any(
        of.finding == "influential" for one in networks for of in one.answers.facts if of.fact.concept == "null"
    )


@pytest.mark.parametrize("figure", ["lead", "caption"])
def test_the_order_follows_the_truth(networks: list[Network], figure: str) -> None:
    by_seed = orders(networks)[figure]
    assert len(by_seed) == 5
    assert np.nanmean(by_seed) >= FEWEST_CORRELATION


def test_networks_that_never_saw_a_right_caption_lean_on_it_least(networks: list[Network]) -> None:
    for seed in {one.seed for one in networks}:
        by_name = {one.name: one for one in networks if one.seed == seed}
        readers, others = ("p0", "p30"), ("none", "p100")
        assert min(by_name[name].caption for name in readers) > max(by_name[name].caption for name in others)
