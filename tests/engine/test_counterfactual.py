"""The intervention measures what it says: changes, flips, ranks, and a p that holds."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

from caveat_spec.results import Estimate, Figures
from caveat_worker.engine.activations.target_values import target_value
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.concepts.counterfactual import changed_shares, in_decisions, in_probability, measure_change
from caveat_worker.engine.statistics.intervals import (
    difference_interval,
    expanded_interval,
    mean_interval,
    percentile_interval,
    scaled_mean_interval,
)
from caveat_worker.engine.statistics.p_values import resampled_p, sign_flip_p

OVER: Float64Array = 2 * norm.ppf((np.arange(4001) + 0.5) / 4001)
"""Target values of the scale 2, so many that the scale is as good as known."""


def measure(before: Any, after: Any, **settings: Any) -> Figures:
    defaults: dict[str, Any] = {
        "over": OVER,
        "alpha": 0.05,
        "permutations": 199,
        "resamples": 199,
        "rng": np.random.default_rng(0),
    }
    return measure_change(np.asarray(before, float), np.asarray(after, float), **(defaults | settings))


def test_change_is_the_mean_paired_difference() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(size=40) * 10
    found = measure(before, before + 1 + 0.1 * rng.normal(size=40))
    assert found.effect.value == pytest.approx(1, abs=0.05)
    assert found.effect.in_sd == pytest.approx(found.effect.value / 2, rel=1e-3)
    assert found.effect.interval[0] < found.effect.value < found.effect.interval[1]
    # the scale is hardly uncertain, so that the interval in sd is that of the change over it
    assert found.effect.interval_in_sd == pytest.approx(np.divide(found.effect.interval, 2), rel=0.07)
    assert found.effect.p == 1 / 200
    assert (found.decisions.probability_without, found.decisions.rank, found.decisions.classes) == (None, None, None)


def test_classes_have_probabilities_flips_and_a_rank() -> None:
    before = np.array([[2.0, 0.0, 1.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    after = before + np.array([0.0, 1.5, -0.5])
    found = measure(before[:, 1], after[:, 1], scores_without=before, scores_with=after, index=1, link="softmax")
    assert (found.decisions.flips_to, found.decisions.flips_from, found.decisions.rank, found.decisions.classes) == (
        1,
        0,
        1,
        3,
    )
    expected = np.exp(after[:, 1]) / np.exp(after).sum(1)
    assert found.decisions.probability_with == pytest.approx(expected.mean())
    assert found.effect.value == pytest.approx(1.5)


def test_single_output_decides_over_its_threshold() -> None:
    found = measure([-1.0, 1.0, 3.0], [1.0, 2.0, -1.0], link="sigmoid")
    assert (found.decisions.flips_to, found.decisions.flips_from) == (1, 1)
    assert found.decisions.probability_without == pytest.approx(np.mean(1 / (1 + np.exp([1.0, -1.0, -3.0]))))


def test_regression_has_no_probability() -> None:
    found = measure([-10.0, 20.0], [30.0, 20.0])
    assert (found.decisions.probability_without, found.decisions.flips_to, found.decisions.flips_from) == (None, 1, 0)
    assert measure([10.0, 20.0], [30.0, 20.0], decides=False).decisions is None


def test_a_single_probability_decides_over_half() -> None:
    found = measure([0.2, 0.6, 0.9], [0.7, 0.6, 0.4], link="probabilities")
    assert (found.decisions.flips_to, found.decisions.flips_from) == (1, 1)
    assert found.decisions.probability_with == pytest.approx((0.7 + 0.6 + 0.4) / 3)


@pytest.mark.parametrize("link", ["probabilities", "shares_of_sigmoids"])
def test_shares_of_classes_are_not_squashed_again(link: Any) -> None:
    shares = np.array([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]])
    scores = shares if link == "probabilities" else np.log(shares / (1 - shares))
    found = measure(scores[:, 1], scores[:, 1], scores_without=scores, scores_with=scores, index=1, link=link)
    assert found.decisions.probability_with == pytest.approx(0.35)


def test_a_probability_of_zero_has_no_logarithm() -> None:
    with pytest.raises(InvalidInput, match="the probability 0, which has no logarithm"):
        target_value(np.array([[0.0, 1.0]]), 1, scale="log_probability", link="probabilities")


def test_p_of_a_few_pairs_tries_every_sign() -> None:
    rng = np.random.default_rng(0)
    assert sign_flip_p(np.array([1.0, 2.0, 3.0]), 199, rng) == 2 / 8
    assert sign_flip_p(np.array([1.0, -1.0]), 199, rng) == 1
    assert sign_flip_p(np.zeros(30), 199, rng) == 1


def test_p_holds_where_nothing_changed() -> None:
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_p(rng.standard_t(3, size=15), 99, rng) for _ in range(600)])
    for level in (0.05, 0.2, 0.5):
        low, high = binom.ppf([0.001, 0.999], 600, level) / 600
        assert low <= (p <= level).mean() <= high


def test_interval_of_few_skewed_changes_covers_better_than_percentiles() -> None:
    rng = np.random.default_rng(0)
    drawn = [rng.lognormal(size=15) for _ in range(300)]
    truth = np.exp(0.5)

    def covers(low: float, high: float) -> bool:
        return bool(low <= truth <= high)

    without_skewness = np.mean([covers(*mean_interval(values, 0.05)) for values in drawn])
    percentile = np.mean(
        [covers(*percentile_interval(rng.choice(values, (299, 15)).mean(1), 0.05)) for values in drawn]
    )
    assert without_skewness > 0.88
    assert without_skewness > percentile + 0.03


def test_expanded_percentiles_of_few_examples_cover_as_often_as_they_say_and_agree_with_their_p() -> None:
    rng, n, draws = np.random.default_rng(0), 12, 3000
    values = rng.normal(size=(draws, n))
    resamples = values[np.arange(draws)[:, None, None], rng.integers(n, size=(draws, 199, n))].mean(2)
    plain = np.array([percentile_interval(each, 0.05) for each in resamples])
    expanded = np.array([expanded_interval(each, 0.05, n) for each in resamples])
    p = np.array([resampled_p(float(row.mean()), each, n) for row, each in zip(values, resamples, strict=True)])
    covered = [float(((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean()) for ends in (plain, expanded)]
    assert covered[0] < 0.92
    assert 0.93 < covered[1] < 0.965
    assert 0.04 < (p <= 0.05).mean() < 0.06


@pytest.mark.parametrize("heavy", [False, True])
def test_intervals_of_a_mean_and_of_a_gap_cover_with_heavy_tails_too(heavy: bool) -> None:
    """Kurtosis 26, symmetric: Hall's correction for a skewness that is not there covers 92 to 93 %."""
    rng, n, draws = np.random.default_rng(1), 60, 2000
    values = rng.normal(size=(draws, 2, n)) * np.where(rng.random((draws, 2, n)) < 0.03 * heavy, 5.713, 1.0)
    means = np.array([mean_interval(first, 0.05) for first, _ in values])
    gaps = np.array([difference_interval(first, second, 0.05) for first, second in values])
    for ends in (means, gaps):
        assert 0.935 < ((ends[:, 0] <= 0) & (ends[:, 1] >= 0)).mean() < 0.97


def test_one_large_change_among_many_small_ones_does_not_send_an_end_far_away() -> None:
    """The studentised bootstrap gave +0.07 an end at +1.90: resamples without the large change hardly vary."""
    change = np.append(np.full(59, 0.01) + 1e-3 * np.arange(59) / 59, 3.5)
    low, high = mean_interval(change, 0.05)
    error = change.std(ddof=1) / np.sqrt(60)
    assert 0 <= change.mean() - low < 2.01 * error  # Student's
    assert 2 * error < high - change.mean() < 6.5 * error


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 200, 500])
def test_interval_in_sd_covers_also_where_the_target_has_heavy_tails(n: int) -> None:
    """Kurtosis 26: one value in thirty is of a distribution five times as wide; half a sample's sd is chance."""
    rng = np.random.default_rng(n)
    covered = 0
    for _ in range(400):
        values = rng.normal(size=n) * np.where(rng.random(n) < 0.03, 5.3, 1)
        change = 0.3 + 0.03 * rng.normal(size=n)
        low, high = scaled_mean_interval(change, values, 0.05, 299, rng, together=True)
        covered += low <= 0.3 / TRUE_SCALE <= high
    assert 0.92 <= covered / 400 <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 200, 500])
def test_intervals_in_probability_and_decisions_cover(n: int) -> None:
    """A class of which the model is sure at most examples; the truth is the mean over half a million of them."""

    def drawn(count: int, rng: np.random.Generator) -> tuple[Float64Array, Float64Array]:
        before: Float64Array = rng.normal(-1.5, 2, count)
        after: Float64Array = before + rng.normal(0.6, 0.4, count)
        return before, after

    def moved(before: Float64Array, after: Float64Array) -> tuple[Estimate, Estimate]:
        changed = changed_shares(before, after, None, "sigmoid")
        probability = in_probability(changed, 0.05)
        assert probability is not None
        return probability, in_decisions(changed, 0.05)

    rng = np.random.default_rng(n)
    truth = moved(*drawn(500_000, rng))
    covered = np.mean(
        [
            [one.interval[0] <= true.value <= one.interval[1] for one, true in zip(found, truth, strict=True)]
            for found in (moved(*drawn(n, rng)) for _ in range(2000))
        ],
        axis=0,
    )
    assert 0.93 <= covered[0] <= 0.97
    assert covered[1] >= 0.94  # exact: never less than it promises, but for chance in 2,000 draws


TRUE_SCALE = 1.0352
"""The middle 70 % of that mixture over the middle 70 % of a standard normal distribution."""


def test_interval_of_a_constant_change_is_a_point() -> None:
    assert measure([0.0, 1.0, 2.0], [1.0, 2.0, 3.0]).effect.interval == (1.0, 1.0)


@pytest.mark.parametrize("scale", ["logit", "log_probability", "probability"])
def test_target_is_read_on_its_scale(scale: str) -> None:
    logits: Float64Array = np.array([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected: Float64Array = {"logit": logits, "log_probability": np.log(share), "probability": share}[scale]
    np.testing.assert_allclose(target_value(logits, 1, scale=scale), expected[:, 1])
    np.testing.assert_allclose(target_value(logits, 1, 2, scale), expected[:, 1] - expected[:, 2])
    single: Any = {"logit": [0.0, 2.0], "log_probability": np.log([0.5, 0.880797]), "probability": [0.5, 0.880797]}[
        scale
    ]
    np.testing.assert_allclose(target_value(np.array([[0.0], [2.0]]), scale=scale), single, rtol=1e-6)


def test_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidInput, match="names the class 3; the output has 3"):
        target_value(np.zeros((2, 3)), 3)
    with pytest.raises(InvalidInput, match="names the class 7"):
        target_value(np.zeros((2, 3)), 7, 1)


def test_halves_of_pairs_are_refused() -> None:
    with pytest.raises(InvalidInput, match="3 values without and 2 with"):
        measure([1, 2, 3], [1, 2])
    with pytest.raises(InvalidInput, match="no probability without the scores"):
        measure([1, 2], [2, 3], link="softmax")
