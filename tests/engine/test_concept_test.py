"""The test holds where there is nothing, finds what is planted, and says when it should not be believed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm, ttest_ind
from threadpoolctl import threadpool_limits

from bench.validation.simulation import World, draw
from caveat_worker.engine.activations.gram import gram, products
from caveat_worker.engine.base.arrays import Float64Array
from caveat_worker.engine.base.errors import InvalidInput
from caveat_worker.engine.concepts.cav import direction
from caveat_worker.engine.concepts.concept_test import (
    ConceptData,
    Figures,
    Settings,
    TargetData,
    run_concept_test,
    tcav_score,
)
from caveat_worker.engine.concepts.linear_probe import shuffles_for
from caveat_worker.engine.statistics.correction import correct, fewest_permutations
from caveat_worker.engine.statistics.p_values import exceedance_p, legacy_t_test
from caveat_worker.engine.statistics.resampling import (
    bootstrap_counts,
    bootstrap_sides,
    fold_numbers,
    matched,
    random_sets,
    reference_draws,
    swapped_pairs,
)
from caveat_worker.engine.statistics.scale import ResampledScales, scale

QUICK = Settings(runs=20, permutations=99, bootstrap=99)


def row(world: World, seed: int = 0, settings: Settings = QUICK) -> Figures:
    rng = np.random.default_rng(seed)
    data, target = draw(world, rng)
    return run_concept_test(data, [target], settings, rng).figures[0]


def codes(result: Figures) -> set[str]:
    return {flag.code for flag in result.flags}


# -- What holds where there is nothing


@pytest.mark.parametrize("estimator", [pytest.param("logistic", marks=pytest.mark.slow), "mean_difference"])
@pytest.mark.parametrize("world", [World(12, 24, 10, 30), World(12, 18, 10, 30, paired=True)], ids=["sets", "pairs"])
def test_null_audits_are_rejected_no_more_often_than_alpha(world: World, estimator: str) -> None:
    """200 audits of random sets: rejections under the binomial 95 % bound, shared among the twelve rates here."""
    quick = Settings(estimator, None, runs=2, permutations=39, bootstrap=19, folds=2)
    audits = (row(world, seed, quick) for seed in range(1000, 1200))
    p = [(one.effect.p, one.effect.p_against_sets, one.score.p) for one in audits]
    for statistic in zip(*p, strict=True):
        assert sum(each <= 0.05 for each in statistic) <= binom.ppf(1 - 0.025 / 12, 200, 0.05)


def test_p_is_uniform_under_the_null() -> None:
    """Exact at every level: with 19 null sets, p ≤ k/20 in a share k/20 of null audits."""
    quick = Settings("mean_difference", None, runs=2, permutations=19, bootstrap=19, folds=2)
    p = np.array([row(World(6, 9, 5, 12), seed, quick).effect.p_against_sets for seed in range(400)])
    for level in (0.1, 0.25, 0.5, 0.75):
        low, high = binom.ppf([0.001, 0.999], 400, level) / 400
        assert low <= (p <= level).mean() <= high


# -- What finds what is planted


def test_a_planted_effect_is_found_and_its_interval_holds_it() -> None:
    world = World(shift=3, slope=1)
    found = [row(world, seed) for seed in range(12)]
    assert sum(one.effect.p == 0.01 for one in found) >= 11
    # the step to the concept is 3 along a direction of slope 1
    assert sum(one.effect.interval[0] <= 3 <= one.effect.interval[1] for one in found) >= 9
    assert all(one.accuracy.encoded and "weak_cav" not in codes(one) for one in found)


def test_pairs_are_tighter_than_sets() -> None:
    world = World(20, 20, 20, 400, decay=0, shift=1.5, slope=0.2, paired=True)
    rng = np.random.default_rng(3)
    data, target = draw(world, rng)
    by_pair = run_concept_test(data, [target], QUICK, np.random.default_rng(0)).figures[0]
    by_set = run_concept_test(replace(data, pairs=None), [target], QUICK, np.random.default_rng(0)).figures[0]
    assert (by_pair.effect.null.kind, by_set.effect.null.kind) == ("swapped_pairs", "random_sets")
    assert by_pair.effect.value == by_set.effect.value
    assert by_pair.effect.null.sd < by_set.effect.null.sd / 2


def test_a_concept_without_slope_lies_inside_a_tolerance() -> None:
    found = row(World(100, 200, 100, shift=3, slope=0))
    assert found.accuracy.encoded
    low, high = found.effect.interval_in_sd
    assert -0.5 < low < 0 < high < 0.5


def test_an_encoded_concept_that_the_target_ignores_is_not_significant() -> None:
    """It is not a random set, so the permutation alone would often call it one."""
    found = [row(World(d=2000, decay=0.5, shift=3), seed) for seed in range(20)]
    assert all(one.accuracy.encoded for one in found)
    assert sum(one.effect.p_against_sets <= 0.05 for one in found) > sum(one.effect.p <= 0.05 for one in found)
    assert sum(one.effect.p <= 0.05 for one in found) <= 4
    assert all(one.effect.p == max(one.effect.p_against_sets, one.effect.p_against_zero) for one in found)


def test_the_interval_says_whose_examples_widen_it() -> None:
    few_targets, few_concepts = World(100, 200, 12, shift=3), World(12, 200, 300, shift=3)
    assert row(few_targets).effect.target_share > 0.6
    assert row(few_concepts).effect.target_share < row(few_targets).effect.target_share - 0.2


def test_a_relative_concept_is_tested_against_another() -> None:
    """A against B is the opposite of B against A; their common part is in neither."""
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(90, 30)), rng.normal(size=(40, 30)) * 0.2
    x[:60, 0] += 4  # what the first two sets share
    x[:30, 1] += 3
    g[:, 1] += 1
    target = TargetData(products(g, x), rng.normal(size=40))
    k, first, second, pool = gram(x), np.arange(30), np.arange(30, 60), np.arange(60, 90)
    relative = run_concept_test(ConceptData(k, first, second), [target], QUICK, rng)
    against_pool = run_concept_test(ConceptData(k, second, pool), [target], QUICK, rng)
    assert relative.figures[0].effect.interval[0] < 3 < relative.figures[0].effect.interval[1]
    assert abs(direction(relative.alpha, x)[0]) < 0.4
    assert direction(against_pool.alpha, x)[0] > 0.8


def test_the_effect_of_the_mean_difference_is_the_gradient_along_it() -> None:
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(50, 9)), rng.normal(size=(7, 9))
    data = ConceptData(gram(x), np.arange(20), np.arange(20, 50))
    values = rng.normal(size=7)
    found = run_concept_test(
        data, [TargetData(products(g, x), values)], replace(QUICK, estimator="mean_difference"), rng
    ).figures[0]
    step = x[:20].mean(0) - x[20:].mean(0)
    assert found.effect.value == pytest.approx(g.mean(0) @ step)
    assert found.effect.in_sd == pytest.approx(g.mean(0) @ step / scale(values))
    assert found.score.value == (g @ step > 0).mean()
    np.testing.assert_allclose(found.changes, g @ step)


def test_one_standard_deviation_is_that_of_the_pool_where_the_cav_did_not_fit() -> None:
    world = World(150, 300, 40, 20, decay=0, shift=6, slope=1)
    found = row(world)
    assert found.effect.per_concept_sd == pytest.approx(1, rel=0.15)  # unit variance, slope 1 along the concept


def test_a_scale_is_the_standard_deviation_of_a_normal_distribution_and_extreme_examples_do_not_change_it() -> None:
    values = 3 * norm.ppf((np.arange(999) + 0.5) / 999)
    assert scale(values) == pytest.approx(3, rel=0.01)
    assert scale(np.append(values, 1e6)) == pytest.approx(scale(values), rel=0.01)
    assert scale(np.append(np.zeros(30), 1.0)) == np.append(np.zeros(30), 1.0).std(ddof=1)
    assert scale(np.ones(9)) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 12, 200, 3_000])
@pytest.mark.parametrize("kind", ["normal", "heavy", "rounded", "yes or no", "rare"])
def test_each_resample_has_a_scale_of_its_own(n: int, kind: str) -> None:
    rng = np.random.default_rng(n)
    values = {
        "normal": rng.normal(size=n),
        "heavy": rng.standard_cauchy(n),
        "rounded": rng.normal(size=n).round(),
        "yes or no": (rng.random(n) < 0.5).astype(float),
        "rare": (rng.random(n) < 0.02).astype(float),
    }[kind]
    counts = bootstrap_counts(n, 20, np.random.default_rng(1))
    expected = [scale(np.repeat(values, each.astype(int))) for each in counts]
    np.testing.assert_allclose(ResampledScales(values).of(counts), expected, rtol=1e-12)


def test_a_quantile_that_lies_far_from_its_place_is_found_too() -> None:
    values = np.random.default_rng(0).normal(size=1_000)
    counts = np.zeros((3, 1_000))
    counts[0, values.argmin()] = counts[1, values.argmax()] = counts[2, values.argmin()] = 1_000
    counts[2, [values.argmin(), values.argmax()]] = 500
    expected = [scale(np.repeat(values, each.astype(int))) for each in counts]
    assert ResampledScales(values).of(counts) == pytest.approx(expected, rel=1e-12)


# -- The same question gives the same answer


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 1e3]))
def test_answers_do_not_depend_on_the_layer_s_basis_origin_or_scale(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=(24, 10)), rng.normal(size=(6, 10)) + 0.3
    x[:10, 0] += 1
    turn = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    moved, moved_g = scale * (x @ turn) + scale * rng.normal(size=10), g @ turn / scale
    values = rng.normal(size=6)
    before, after = (
        run_concept_test(
            ConceptData(gram(each), np.arange(10), np.arange(10, 24)),
            [TargetData(products(gradient, each), values)],
            replace(QUICK, permutations=19, bootstrap=19, runs=3),
            np.random.default_rng(1),
        ).figures[0]
        for each, gradient in ((x, g), (moved, moved_g))
    )
    assert after.effect.value == pytest.approx(before.effect.value, rel=1e-6, abs=1e-8)
    assert after.effect.p_against_sets == before.effect.p_against_sets
    assert after.effect.p == pytest.approx(before.effect.p, rel=1e-5)
    assert after.effect.interval == pytest.approx(before.effect.interval, rel=1e-6, abs=1e-8)
    assert after.accuracy == before.accuracy


def test_concept_and_pool_in_turn_give_opposite_effects() -> None:
    data, target = draw(World(25, 25, shift=2, slope=1), np.random.default_rng(0))
    there = run_concept_test(data, [target], QUICK, np.random.default_rng(0)).figures[0]
    back = run_concept_test(
        replace(data, concept=data.reference, reference=data.concept), [target], QUICK, np.random.default_rng(0)
    ).figures[0]
    # the step is turned around and so is the CAV: the effect of a step the other way
    assert back.effect.value == pytest.approx(-there.effect.value)
    assert back.score.value == pytest.approx(1 - there.score.value)


def test_rows_do_not_depend_on_the_other_examples_or_targets_of_the_layer() -> None:
    data, target = draw(World(shift=2, slope=1), np.random.default_rng(0))
    n = len(data.k)
    wide = np.pad(data.k, ((0, 5), (0, 5)))
    wide_target = TargetData(np.pad(target.gx, ((0, 0), (0, 5))), target.values)
    other = TargetData(-target.gx, target.values)
    alone = run_concept_test(data, [target], QUICK, np.random.default_rng(0))
    among = run_concept_test(replace(data, k=wide), [wide_target], QUICK, np.random.default_rng(0))
    assert among.figures[0].effect == alone.figures[0].effect
    assert not among.alpha[n:].any()
    both = run_concept_test(data, [other, target], QUICK, np.random.default_rng(0))
    assert both.figures[1].effect.p == alone.figures[0].effect.p
    assert both.figures[0].effect.value == pytest.approx(-both.figures[1].effect.value)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_audit_gives_the_same_rows_on_any_number_of_threads(threads: int) -> None:
    first = row(World(shift=1))
    with threadpool_limits(threads):
        second = row(World(shift=1))
    assert (first.effect, first.score, first.accuracy) == (second.effect, second.score, second.accuracy)


# -- Flags


def test_the_same_gradient_everywhere_is_degenerate() -> None:
    data, target = draw(World(shift=3, slope=1), np.random.default_rng(0))
    affine = TargetData(np.repeat(target.gx[:1], 40, axis=0), target.values)
    found = run_concept_test(data, [affine], QUICK, np.random.default_rng(0)).figures[0]
    assert found.score.value in (0.0, 1.0)
    assert [flag.blocking for flag in found.flags if flag.code == "degenerate"] == [False]


@pytest.mark.parametrize(("dead", "blocking"), [(5, False), (20, True), (40, True)])
def test_zero_gradients_are_counted(dead: int, blocking: bool) -> None:
    data, target = draw(World(shift=3, slope=1), np.random.default_rng(0))
    target.gx[:dead] = 0
    found = run_concept_test(data, [target], QUICK, np.random.default_rng(0)).figures[0]
    (flag,) = (flag for flag in found.flags if flag.code == "zero_gradient")
    assert f"at {dead} of 40" in flag.sentence
    assert flag.blocking is blocking


def test_a_model_that_ignores_its_input_has_no_effect() -> None:
    data, target = draw(World(shift=3), np.random.default_rng(0))
    found = run_concept_test(data, [TargetData(0 * target.gx, np.ones(40))], QUICK, np.random.default_rng(0)).figures[0]
    assert (found.effect.value, found.effect.in_sd, found.effect.p, found.score.value) == (0, 0, 1, 0)
    assert "zero_gradient" in codes(found)


def test_an_effect_on_a_constant_target_has_no_scale() -> None:
    data, target = draw(World(shift=3, slope=1), np.random.default_rng(0))
    with pytest.raises(InvalidInput, match="no scale"):
        run_concept_test(data, [TargetData(target.gx, np.ones(40))], QUICK, np.random.default_rng(0))


def test_a_random_set_is_a_weak_cav() -> None:
    found = [row(World(), seed) for seed in range(10)]
    weak = [flag for one in found for flag in one.flags if flag.code == "weak_cav"]
    assert len(weak) >= 8
    assert all(flag.blocking for flag in weak)
    assert 0.4 < np.mean([one.accuracy.held_out for one in found]) < 0.6


def test_paired_examples_share_a_fold() -> None:
    """Otherwise the partner, fitted as a negative, makes a held-out concept example look like the pool."""
    found = row(World(30, 30, 20, 200, decay=0, shift=0, paired=True))
    assert 0.3 < found.accuracy.held_out < 0.7
    assert abs(found.accuracy.shuffled_mean - 0.5) < 0.05


def test_few_examples_are_counted() -> None:
    (flag,) = (flag for flag in row(World(12, 60, 8)).flags if flag.code == "few_examples")
    assert flag.sentence == "The concept has 12 and the target has 8 examples; 20 are needed (`method.min_examples`)."


def test_a_reference_set_unlike_the_targets_is_flagged() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 50))
    x[40:80, :5] += 4  # the pool is of another kind than concept (first 40) and targets (last 40)
    data = ConceptData(gram(x), np.arange(40), np.arange(40, 80), targets=np.arange(80, 120))
    target = TargetData(products(rng.normal(size=(40, 50)), x), rng.normal(size=40))
    assert "reference_unlike_targets" in codes(run_concept_test(data, [target], QUICK, rng).figures[0])
    x[40:80, :5] -= 4
    assert "reference_unlike_targets" not in codes(
        run_concept_test(replace(data, k=gram(x)), [target], QUICK, rng).figures[0]
    )


@pytest.mark.parametrize(
    ("step", "size", "flagged"),
    [(8.0, 0.5, True), (8.0, 2.0, True), (8.0, 1.0, False), (1.0, 0.5, False)],
    ids=["far and alike", "far and varied", "far", "near"],
)
def test_a_concept_of_another_kind_than_its_reference_set_is_flagged(step: float, size: float, flagged: bool) -> None:
    """As drawn stripes are against photographs: far from them, and not as varied. Pairs cannot differ in kind."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 30))
    x[:40] *= size
    x[:40, 0] += step
    data = ConceptData(gram(x), np.arange(40), np.arange(40, 80))
    target = TargetData(products(rng.normal(size=(40, 30)), x), rng.normal(size=40))
    found = run_concept_test(data, [target], QUICK, rng).figures[0]
    assert [flag.blocking for flag in found.flags if flag.code == "sets_differ_in_kind"] == [True] * flagged
    pairs = replace(data, pairs=np.arange(40))
    assert "sets_differ_in_kind" not in codes(run_concept_test(pairs, [target], QUICK, rng).figures[0])


def test_a_concept_that_moves_all_targets_alike_is_a_caution_and_matched_pairs_are_none() -> None:
    """It blocks nothing: a verdict on one target must not depend on the others that are listed."""
    rng = np.random.default_rng(0)
    data, target = draw(World(shift=4, slope=1), rng)
    alike = [TargetData(target.gx * (1 + 0.05 * number), target.values) for number in range(3)]
    apart = [*alike[:2], TargetData(-target.gx, target.values)]
    for figures in run_concept_test(data, alike, QUICK, rng).figures:
        assert [flag.blocking for flag in figures.flags if flag.code == "moves_all_targets"] == [False]
    pairs = replace(data, pairs=np.arange(30))
    for found in (run_concept_test(data, apart, QUICK, rng), run_concept_test(pairs, alike, QUICK, rng)):
        assert not any("moves_all_targets" in codes(each) for each in found.figures)


def test_the_accuracy_said_to_be_detectable_is_detected_in_95_of_100_cases() -> None:
    """Over audits whose layer encodes the concept a little: those of the accuracy that each calls detectable."""
    quick = Settings("mean_difference", None, runs=2, permutations=19, bootstrap=19)
    for shift, world in ((1.3, World(d=30)), (1.6, World(d=30))):
        found = [row(replace(world, shift=shift), seed, quick).accuracy for seed in range(60)]
        true = float(np.mean([one.held_out for one in found]))
        detected = np.mean([one.encoded for one in found])
        detectable = np.mean([one.detectable for one in found])
        assert detected >= 0.9 if true >= detectable else detected < 0.99


def test_runs_that_turn_the_effect_around_are_flagged() -> None:
    flags = [flag for seed in range(8) for flag in row(World(20, 80), seed).flags if flag.code == "unstable_negatives"]
    assert flags
    assert not any(flag.blocking for flag in flags)


# -- The pieces


def test_p_counts_the_observed_set_itself() -> None:
    assert exceedance_p(2.0, np.array([0.0, -1.0, 1.0])) == 0.25
    assert exceedance_p(-2.0, np.array([2.0, -2.0 * (1 - 1e-9), 1.0])) == 0.75
    assert exceedance_p(0.0, np.zeros(3)) == 1


def test_score_is_the_share_of_positive_sensitivities() -> None:
    """LIT's cases."""
    assert tcav_score([1]) == 1
    assert tcav_score([0]) == 0
    assert tcav_score([1, -5, 4, 6.5, -3, -2.5, 0, 2]) == 0.5


def test_legacy_t_test_is_lit_s() -> None:
    first, second = [0, 0, 0.5, 0.5, 1, 1], [3, 5, -8, -100, 0, -90]
    assert legacy_t_test(first, second) == pytest.approx(0.1415165926492605, abs=1e-12)
    assert legacy_t_test(first, second) == pytest.approx(ttest_ind(first, second).pvalue)
    same = [0.1, 0.13, 0.19, 0.09, 0.12, 0.1]
    assert legacy_t_test(same, same) == 1
    assert legacy_t_test([1, 1], [1, 1]) == 1
    assert legacy_t_test([1, 1], [0, 0]) == 0


def test_holm_and_benjamini_hochberg() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(correct(p, "holm"), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(correct(p, "benjamini_hochberg"), [0.02, 0.04, 0.04, 0.02])
    np.testing.assert_allclose(correct(p, "none"), p)
    assert correct([0.6, 0.9], "holm").max() == 1
    assert correct([], "holm").shape == (0,)
    with pytest.raises(InvalidInput, match="holm, benjamini_hochberg or none"):
        correct(p, "bonferoni")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_corrections_keep_order_and_never_help(p: list[float]) -> None:
    order = np.argsort(p, kind="stable")
    for method in ("holm", "benjamini_hochberg"):
        corrected = correct(p, method)
        assert (np.diff(corrected[order]) >= 0).all()
        assert (corrected >= np.array(p) * (1 - 1e-15)).all()
        assert (corrected <= 1).all()


@pytest.mark.parametrize("rows", [1, 24, 25, 100])
def test_with_the_fewest_permutations_one_exceedance_does_not_lose_a_row(rows: int) -> None:
    fewest = fewest_permutations(rows, 0.05)
    assert 2 * rows / (fewest + 1) < 0.05
    assert 2 * rows / fewest >= 0.05


@given(st.integers(1, 30), st.data())
def test_random_sets_have_their_size(n: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, n))
    sets = random_sets(n, size, 7, np.random.default_rng(0))
    assert (sets.sum(1) == size).all()


def test_every_set_is_equally_likely() -> None:
    sets = random_sets(5, 2, 20_000, np.random.default_rng(0)) @ (2 ** np.arange(5))
    assert np.unique(sets).size == 10
    assert np.bincount(sets)[np.unique(sets)].std() < 70  # sqrt(2000 · 0.9) = 42


def test_swapped_pairs_take_one_of_each() -> None:
    partners = np.array([5, 3, 4])
    sets = swapped_pairs(7, partners, 50, np.random.default_rng(0))
    assert (sets[:, :3] ^ sets[:, partners]).all()
    assert not sets[:, 6].any()


def test_runs_never_take_the_whole_pool() -> None:
    assert (reference_draws(10, 60, 5, np.random.default_rng(0))[:, 10:].sum(1) == 10).all()
    assert (reference_draws(60, 40, 5, np.random.default_rng(0))[:, 60:].sum(1) == 20).all()


def test_resamples_keep_sizes_and_pairs() -> None:
    concept, pool = bootstrap_sides(3, 5, np.array([6, 3, 4]), 40, np.random.default_rng(0))
    assert (concept.sum(1) == 3).all()
    assert (pool.sum(1) == 5).all()
    np.testing.assert_array_equal(pool[:, [6, 3, 4]], concept[:, :3])


def test_folds_spread_both_labels() -> None:
    sets = random_sets(23, 7, 6, np.random.default_rng(0))
    folds = fold_numbers(sets, 3, None, np.random.default_rng(1))
    for labels, fold in zip(sets, folds, strict=True):
        assert set(np.bincount(fold[labels], minlength=3)) <= {2, 3}
        assert set(np.bincount(fold[~labels], minlength=3)) <= {5, 6}


def test_matched_sides_have_the_smaller_one_s_size() -> None:
    sets = random_sets(12, 4, 5, np.random.default_rng(0))
    few, many = matched(sets, ~sets, np.random.default_rng(1))
    np.testing.assert_array_equal(few, sets)
    assert (many.sum(1) == 4).all()
    assert not (many & sets).any()


@pytest.mark.parametrize(("alpha", "shuffles"), [(0.05, 99), (0.01, 499), (0.1, 49)])
def test_shuffles_place_the_quantile(alpha: float, shuffles: int) -> None:
    assert shuffles_for(alpha) == shuffles


# -- Refusals


def _data(**changes: object) -> ConceptData:
    data: ConceptData = replace(draw(World(), np.random.default_rng(0))[0], **changes)  # type: ignore[arg-type]
    return data


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (_data(reference=np.arange(29, 60)), "concept-in-reference"),
        (_data(concept=np.arange(1)), "few-examples"),
        (_data(pairs=np.zeros(30, dtype=int)), "pairs-incomplete"),
    ],
)
def test_sets_that_cannot_be_tested_are_refused(data: ConceptData, code: str) -> None:
    target = TargetData(np.zeros((2, 90)), np.zeros(2))
    with pytest.raises(InvalidInput) as refused:
        run_concept_test(data, [target], QUICK, np.random.default_rng(0))
    assert refused.value.code == code


def test_targets_that_do_not_fit_the_layer_are_refused() -> None:
    gx: Float64Array = np.zeros((2, 89))
    with pytest.raises(InvalidInput, match=r"shape \(2, 89\)"):
        run_concept_test(_data(), [TargetData(gx, np.zeros(2))], QUICK, np.random.default_rng(0))
