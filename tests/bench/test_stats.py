"""Statistics are compared with enumeration and other libraries, and their honesty is measured."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from bench import stats
from bench.errors import BenchError


def generator(seed=0):
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------- sign-flip tests


def enumerated(differences):
    """p-value over all 2^Q sign patterns."""
    signs = np.array(list(itertools.product([1, -1], repeat=len(differences))))
    sums = np.abs(signs @ differences)
    return (sums >= abs(differences.sum()) - 1e-9).mean()


def test_sign_flip_agrees_with_enumeration_and_with_scipy():
    differences = generator(1).normal(0.3, 1, (12, 3))
    found = stats.sign_flip_p(differences, generator(), 40_000)
    for column, p in zip(differences.T, found, strict=True):
        exact = enumerated(column)
        reference = scipy_stats.permutation_test(
            (column, np.zeros_like(column)),
            lambda a, b: np.mean(a - b),
            permutation_type="samples",
            n_resamples=np.inf,
        )
        assert exact == pytest.approx(reference.pvalue)
        assert p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000))


def test_sign_flip_counts_ties_as_extreme():
    # 0.1 + 0.2 − 0.3 differs in its last bit by the order of summation; every pattern ties or wins.
    differences = np.array([0.1, 0.2, -0.3, 0.0])
    assert stats.sign_flip_p(differences, generator(), 999)[0] == 1.0


def test_sign_flip_is_never_zero_and_repeats_to_the_last_digit():
    differences = generator(2).normal(5, 1, (300, 4))
    first = stats.sign_flip_p(differences, generator(7), 999)
    assert first == pytest.approx(1 / 1000, abs=0)
    mild = generator(3).normal(0.05, 1, (300, 4))
    again = [stats.sign_flip_p(mild, generator(7), 999) for _ in range(2)]
    assert np.array_equal(*again)
    assert not np.array_equal(again[0], stats.sign_flip_p(mild, generator(8), 999))


def test_a_column_does_not_depend_on_its_neighbours():
    differences = generator(3).normal(0.1, 1, (200, 5))
    together = stats.sign_flip_p(differences, generator(7), 999)
    alone = stats.sign_flip_p(differences[:, 3], generator(7), 999)
    assert together[3] == alone[0]


def within_binomial_bounds(rejected, trials, alpha):
    low, high = scipy_stats.binom.interval(0.999, trials, alpha)
    return low <= rejected <= high


@pytest.mark.parametrize("shape", ["normal", "skewed pair", "mostly ties"])
def test_sign_flip_rejects_a_true_null_as_often_as_it_says(shape):
    trials, queries = 2000, 60
    random = generator(4)
    first, second = random.normal(size=(2, queries, trials))
    if shape == "skewed pair":  # each method's AP is skewed; exchanging them changes nothing
        first, second = np.exp(first), np.exp(second)
    if shape == "mostly ties":
        second = np.where(random.random((queries, trials)) < 0.8, first, second)
    p = stats.sign_flip_p(first - second, generator(5), 999)
    assert within_binomial_bounds((p <= 0.05).sum(), trials, 0.05)


def test_seeds_of_one_query_are_no_independent_observations():
    """The queries' own differences are common to all seeds; counting seeds apart would reject."""
    trials, queries, seeds = 1000, 80, 3
    random = generator(6)
    own = random.normal(size=(queries, trials))
    values = own + 0.1 * random.normal(size=(seeds, queries, trials))
    honest = stats.sign_flip_p(values.sum(0), generator(1), 999)
    naive = stats.sign_flip_p(values.reshape(-1, trials), generator(1), 999)
    assert within_binomial_bounds((honest <= 0.05).sum(), trials, 0.05)
    assert (naive <= 0.05).mean() > 0.15


# ------------------------------------------------------------------------------------- McNemar


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 30))
def test_mcnemar_of_one_seed_is_the_exact_test(first, second, ties):
    differences = np.array([1] * first + [-1] * second + [0] * (ties + 1))
    expected = mcnemar([[ties, first], [second, 0]], exact=True).pvalue
    assert stats.mcnemar_p(differences)[0] == pytest.approx(min(1.0, expected), rel=1e-9)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=11))
def test_mcnemar_of_several_seeds_agrees_with_enumeration(differences):
    array = np.array(differences)
    assert stats.mcnemar_p(array)[0] == pytest.approx(enumerated(array), rel=1e-9)


def test_mcnemar_is_never_zero():
    assert 0 < stats.mcnemar_p(np.ones(20_000))[0] < 1e-300


def test_mcnemar_refuses_what_is_no_count():
    with pytest.raises(BenchError, match="not whole numbers"):
        stats.mcnemar_p([0.5, 1.0])


def test_mcnemar_rejects_a_true_null_no_more_often_than_it_says():
    trials = 2000
    outcomes = generator(9).random((2, 3, 200, trials)) < 0.2
    differences = outcomes.astype(int)
    p = stats.mcnemar_p((differences[0] - differences[1]).sum(0))
    assert (p <= 0.05).sum() <= scipy_stats.binom.ppf(0.999, trials, 0.05)


# ---------------------------------------------------------------------------------------- Holm


def test_holm_worked_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([]).size == 0


@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 1)))
@settings(max_examples=10, deadline=None)
def test_holm_agrees_with_statsmodels(p):
    assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_keeps_the_family_wise_error():
    trials, family = 2000, 10
    p = generator(10).random((trials, family))
    wrong = sum((stats.holm(row) <= 0.05).any() for row in p)
    assert within_binomial_bounds(wrong, trials, 1 - (1 - 0.05 / family) ** family)


# ------------------------------------------------------------------------------------ intervals


def covered(seed_spread, query_spread, both_spread, seeds, queries=60, trials=400):
    """Share of intervals that hold the true mean, 0, with the given variance components."""
    random = generator(11)
    hits = 0
    for trial in range(trials):
        values = (
            seed_spread * random.normal(size=(seeds, 1, 1))
            + query_spread * random.normal(size=(1, queries, 1))
            + both_spread * random.normal(size=(seeds, queries, 1))
        )
        found = stats.hierarchical_interval(values, generator(trial), resamples=600)
        hits += found.low[0] <= 0 <= found.high[0]
    return hits / trials


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("spread", "most"),
    [((0.0, 1.0, 0.2), 0.98), ((1.0, 0.1, 0.1), 0.98), ((0.15, 1.0, 1.0), 1.0)],
    ids=["queries vary", "seeds vary", "both vary"],
)
def test_intervals_cover_as_often_as_they_say(seeds, spread, most):
    """At least 95 % within the error of 400 trials; where one source rules, not much more."""
    share = covered(*spread, seeds)
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 400) <= share <= most


def test_an_interval_of_two_seeds_holds_the_models_fixed():
    values = generator(12).normal(size=(1, 100, 1)) + np.array([-5.0, 5.0])[:, None, None]
    found = stats.hierarchical_interval(values, generator(), resamples=500)
    assert not found.covers_seeds
    assert found.high[0] - found.low[0] < 1
    assert stats.hierarchical_interval(np.zeros((3, 4, 1)), generator()).covers_seeds


def test_an_interval_of_one_seed_is_the_bootstrap_of_its_queries():
    values = generator(13).exponential(size=(1, 200, 1))
    found = stats.hierarchical_interval(values, generator(), resamples=20_000)
    reference = scipy_stats.bootstrap(
        (values.ravel(),), np.mean, method="percentile", n_resamples=20_000, rng=generator(1)
    ).confidence_interval
    assert (found.low[0], found.high[0]) == pytest.approx(reference, abs=0.01)
    assert found.estimate[0] == pytest.approx(values.mean())


def test_a_statistic_is_taken_per_seed_and_then_averaged():
    values = generator(14).uniform(1, 2, size=(3, 50, 2))

    def ratio(means):
        return means[..., :1] / means[..., 1:]

    found = stats.hierarchical_interval(values, generator(), ratio, resamples=500)
    per_seed = values.mean(1)
    assert found.estimate[0] == pytest.approx((per_seed[:, 0] / per_seed[:, 1]).mean())
    assert found.low[0] < found.estimate[0] < found.high[0]


def test_intervals_repeat_to_the_last_digit():
    values = generator(15).normal(size=(3, 500, 4))
    one, two, other = (
        stats.hierarchical_interval(values, generator(seed), resamples=300) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.low, two.low)
    assert np.array_equal(one.high, two.high)
    assert not np.array_equal(one.low, other.low)


# ----------------------------------------------------------------------------------- effect sizes


def test_effects_worked_by_hand():
    effect = stats.effects(np.array([3.0, -1.0, 2.0, 0.0]))[0]
    assert effect.mean == 1.0
    assert effect.cohen_dz == pytest.approx(1 / np.std([3, -1, 2, 0], ddof=1))
    assert effect.rank_biserial == pytest.approx((3 + 2 - 1) / 6)
    assert (effect.wins, effect.ties, effect.losses) == (2, 1, 1)


def test_effects_of_no_difference_and_of_a_constant_one():
    none, constant = stats.effects(np.array([[0.0, 0.1], [0.0, 0.1], [0.0, 0.1]]))
    assert (none.cohen_dz, none.rank_biserial, none.ties) == (0, 0, 3)
    assert (constant.cohen_dz, constant.rank_biserial) == (np.inf, 1)


@pytest.mark.parametrize("seeds", [1, 3, 8])
def test_the_detectable_difference_has_the_power_that_statsmodels_computes(seeds):
    differences = generator(16).normal(size=(seeds, 200))
    found = stats.minimum_detectable_difference(differences, alpha=0.01, power=0.9)

    def power(detectable, sample):
        effect = detectable / sample.std(ddof=1)
        return TTestPower().power(effect, len(sample), 0.01 / 2, alternative="larger")

    assert power(found.models_fixed, differences.mean(0)) == pytest.approx(0.9, abs=1e-4)
    if seeds < 3:
        assert np.isnan(found.over_training)
    else:
        assert power(found.over_training, differences.mean(1)) == pytest.approx(0.9, abs=1e-4)


def test_a_detectable_difference_is_detected_with_its_power():
    trials, queries = 1000, 100
    noise = generator(17).normal(size=(queries, trials))
    detectable = stats.minimum_detectable_difference(noise.T[:1]).models_fixed
    detectable /= noise[:, 0].std(ddof=1)  # for a standard deviation of 1
    p = stats.sign_flip_p(noise + detectable, generator(), 999)
    assert within_binomial_bounds((p <= 0.05).sum(), trials, 0.8)


# -------------------------------------------------------------------------------------- rankings


def test_rankings_agree_with_demsar():
    """The worked example of Demšar (2006), table 6: C4.5 variants on 14 datasets."""
    scores = np.array(
        [
            [0.763, 0.768, 0.771, 0.798],
            [0.599, 0.591, 0.590, 0.569],
            [0.954, 0.971, 0.968, 0.967],
            [0.628, 0.661, 0.654, 0.657],
            [0.882, 0.888, 0.886, 0.898],
            [0.936, 0.931, 0.916, 0.931],
            [0.661, 0.668, 0.609, 0.685],
            [0.583, 0.583, 0.563, 0.625],
            [0.775, 0.838, 0.866, 0.875],
            [1.000, 1.000, 1.000, 1.000],
            [0.940, 0.962, 0.965, 0.962],
            [0.619, 0.666, 0.614, 0.669],
            [0.972, 0.981, 0.9751, 0.975],  # ranked apart there, before rounding
            [0.957, 0.978, 0.946, 0.970],
        ]
    )
    found = stats.rank_methods(scores)
    assert found.mean_ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert stats.rank_methods(scores, 0.1).critical_difference == pytest.approx(1.12, abs=6e-3)
    assert found.p == pytest.approx(scipy_stats.friedmanchisquare(*scores.T).pvalue)
    apart = np.abs(found.mean_ranks[:, None] - found.mean_ranks) > found.critical_difference
    assert np.array_equal(found.nemenyi_p < 0.05, apart)


def test_rankings_of_equal_methods_and_of_too_few():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        equal = stats.rank_methods(np.ones((4, 3)))
    assert equal.p == 1.0
    assert equal.mean_ranks.tolist() == [2, 2, 2]
    with pytest.raises(BenchError, match="got 2 methods in 3 scenarios"):
        stats.rank_methods(np.ones((3, 2)))


@pytest.mark.parametrize("values", [np.empty((0, 2)), [[1.0, np.nan]], np.zeros((2, 2, 2))])
def test_what_is_no_table_of_numbers_is_refused(values):
    with pytest.raises(BenchError, match="differences h"):
        stats.sign_flip_p(values, generator())


def test_an_incomplete_bootstrap_is_refused():
    with pytest.raises(BenchError, match="leave incomplete seeds out"):
        stats.hierarchical_interval([[[np.nan]]], generator())
    with pytest.raises(BenchError, match=r"expected \[S, Q, C\]"):
        stats.hierarchical_interval([[1.0]], generator())
