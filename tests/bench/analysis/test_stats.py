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

from bench.analysis import stats
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
@settings(max_examples=10)
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


# ------------------------------------------------------------------------------ groups of queries


def test_sign_flips_of_whole_groups_by_hand():
    """docs/statistics.md: groups of .3, .1, −.1 and .2 keep |.5| in 6 of 16 ways."""
    differences, groups = np.array([0.2, 0.1, 0.1, -0.1, 0.2]), np.array([0, 0, 1, 2, 3])
    sums = stats.group_sums(differences, groups)
    assert sums == pytest.approx([0.3, 0.1, -0.1, 0.2])
    assert enumerated(sums) == 6 / 16
    assert stats.sign_flip_p(sums, generator(), 40_000)[0] == pytest.approx(6 / 16, abs=0.01)
    assert enumerated(differences) == 8 / 32
    assert stats.sign_flip_p(differences, generator(), 40_000)[0] == pytest.approx(8 / 32, abs=0.01)


def test_flips_of_whole_groups_by_hand():
    """Groups with net flips 2, 2, −1: |sum| reaches 3 for 4 of the 8 signs."""
    flips = np.array([1, 1, 1, 1, -1, 0])
    groups = np.array([0, 0, 1, 1, 2, 2])
    assert stats.group_sums(flips, groups).tolist() == [2, 2, -1]
    sums = np.array([a * 2 + b * 2 + c for a, b, c in itertools.product([1, -1], repeat=3)])
    expected = np.mean(np.abs(sums) >= 3)
    assert expected == 0.5
    assert stats.mcnemar_p(stats.group_sums(flips, groups)) == pytest.approx([expected])
    # Taken as independent the same flips are 4 against 1: another p.
    assert stats.mcnemar_p(flips) == pytest.approx([2 * (1 + 5) / 32])


@given(
    st.lists(st.lists(st.integers(-1, 1), min_size=1, max_size=5), min_size=1, max_size=7),
)
def test_exact_p_by_groups_is_that_of_all_signs(flips):
    groups = np.repeat(np.arange(len(flips)), list(map(len, flips)))
    sums = stats.group_sums(np.concatenate(flips), groups)
    assert sums.tolist() == list(map(sum, flips))
    every = [np.dot(signs, np.abs(sums)) for signs in itertools.product([1, -1], repeat=len(sums))]
    expected = np.mean(np.abs(every) >= abs(sums.sum()))
    assert stats.mcnemar_p(sums)[0] == pytest.approx(expected)


def test_sums_of_groups_are_those_of_a_loop():
    random = np.random.default_rng(0)
    values, groups = random.normal(size=(30, 2, 3)), random.integers(0, 7, 30)
    expected = np.stack([values[groups == g].sum(0) for g in range(groups.max() + 1)])
    assert stats.group_sums(values, groups) == pytest.approx(expected)
    assert stats.group_sums(values, None) is values


def test_the_error_of_groups_by_hand():
    # Sums 6, 2, 4 of 3, 1, 2 queries: each is as many times the mean 2 as it has queries.
    sizes = np.array([3.0, 1.0, 2.0])
    assert stats.clustered_error(np.array([6.0, 2.0, 4.0]), sizes)[0] == 0
    # Sums 7, 2, 3: departures 1, 0, −1; 36 / 14 groups; error² = 2 · (18/7) / (11/7) / 36.
    error, number = stats.clustered_error(np.array([7.0, 2.0, 3.0]), sizes)
    assert number == pytest.approx(36 / 14)
    assert error == pytest.approx(np.sqrt(2 * 18 / 11 / 36))
    # Of one size it is the standard error of the mean.
    sums = np.array([1.0, 4.0, 2.0, 9.0])
    error, number = stats.clustered_error(sums, np.full(4, 5.0))
    assert (error, number) == (pytest.approx(sums.std(ddof=1) / 2 / 5), 4)
    assert np.isnan(stats.clustered_error(np.ones(1), np.ones(1))[0])


def test_a_difference_of_unequal_groups_is_detected_with_its_power():
    """Sizes from 1 to 30: what all queries gain alike does not add to what groups differ by."""
    random, trials = np.random.default_rng(3), 1000
    sizes = random.integers(1, 31, 80).astype(float)
    groups = np.repeat(np.arange(80), sizes.astype(int))
    noise = random.normal(size=(80, trials))[groups] + random.normal(size=(len(groups), trials))
    sums = stats.group_sums(noise, groups)
    detectable = [
        stats.minimum_detectable_difference(column[None], sizes=sizes).models_fixed
        for column in sums.T[:100]
    ]
    true = np.median(detectable)
    errors = np.array([stats.clustered_error(column + true * sizes, sizes) for column in sums.T])
    means = sums.sum(0) / sizes.sum() + true
    critical = scipy_stats.t.ppf(0.975, errors[0, 1] - 1)
    assert (np.abs(means) > critical * errors[:, 0]).mean() == pytest.approx(0.8, abs=0.05)
    p = stats.sign_flip_p(sums + true * sizes[:, None], random, 999)
    assert (p <= 0.05).mean() == pytest.approx(0.8, abs=0.06)
    far = stats.minimum_detectable_difference((sums[:, :1] + 50 * sizes[:, None]).T, sizes=sizes)
    assert far.models_fixed == pytest.approx(detectable[0])


def test_intervals_resample_whole_groups():
    """Ten copies of each query say no more than one: the interval is that of the groups."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(1, 40, 1))
    copies, groups = np.repeat(values, 10, axis=1), np.repeat(np.arange(40), 10)

    def width(table, groups=None):
        found = stats.hierarchical_interval(table, np.random.default_rng(1), groups=groups)
        assert found.estimate == pytest.approx(values.mean((0, 1)))
        return float(found.high[0] - found.low[0])

    assert width(copies, groups) == pytest.approx(width(values))
    assert width(copies) < 0.5 * width(copies, groups)


def test_the_mean_of_resampled_groups_is_over_their_queries():
    """Two groups of 1 and 3 queries: of the means, 0 and 4/1.., only these three can come up."""
    values = np.array([[[8.0], [0.0], [0.0], [0.0]]])
    found = stats.hierarchical_interval(
        values, np.random.default_rng(0), groups=np.array([0, 1, 1, 1]), level=0.999
    )
    assert found.estimate.tolist() == [2.0]
    # Student's stretch for 16 / 10 groups of equal size pulls both ends away from the mean.
    number, tail = 1.6, 0.9995
    student = scipy_stats.t.ppf(tail, number - 1) / scipy_stats.norm.ppf(tail)
    stretch = np.sqrt(number / (number - 1)) * student
    assert found.low[0] == pytest.approx(2 - stretch * 2)
    assert found.high[0] == pytest.approx(2 + stretch * 6)


@pytest.mark.parametrize("groups", [20, 120])
def test_true_nulls_are_rejected_as_often_as_promised(groups):
    """Queries of a group share an effect with mean 0: by groups α holds, by queries not."""
    generator = np.random.default_rng(3)
    rejected = {"groups": 0, "queries": 0}
    tries = 200
    for _ in range(tries):
        of_group = np.repeat(np.arange(groups), generator.integers(2, 15, groups))
        differences = generator.normal(size=groups)[of_group] + generator.normal(size=len(of_group))
        for unit, values in (
            ("groups", stats.group_sums(differences, of_group)),
            ("queries", differences),
        ):
            rejected[unit] += stats.sign_flip_p(values, generator, 400)[0] <= 0.05
    # Three standard deviations of a binomial around 5 %.
    assert abs(rejected["groups"] / tries - 0.05) <= 3 * np.sqrt(0.05 * 0.95 / tries)
    assert rejected["queries"] / tries > 0.2


# ---------------------------------------------------------------------------- tests over trainings


def test_over_trainings_alone_it_is_the_t_test_of_seeds():
    """Two methods, groups that do not differ: the t test of the means of the seeds."""
    means = np.array([0.3, 0.1, 0.25, 0.4])
    sums = np.repeat(means[:, None], 50, axis=1)[None]
    expected = scipy_stats.ttest_1samp(means, 0).pvalue
    assert stats.trainings_p(sums, np.ones(50), 2) == pytest.approx([expected])


def test_over_groups_alone_it_is_the_t_test_of_groups():
    """Seeds that do not differ: the t test of the groups' means."""
    groups = generator(20).normal(0.3, 1, 40)
    sums = np.tile(groups, (1, 3, 1))
    expected = scipy_stats.ttest_1samp(groups, 0).pvalue
    assert stats.trainings_p(sums, np.ones(40), 2) == pytest.approx([expected])


def test_trainings_that_agree_by_luck_borrow_from_other_pairs():
    noisy = generator(21).normal(0.0, 0.3, (9, 4, 1)) + np.zeros((9, 4, 50))
    calm = np.full((1, 4, 50), 0.1) + 1e-6 * generator(22).normal(size=(1, 4, 1))
    alone = stats.trainings_p(calm, np.ones(50), 2)[0]
    together = stats.trainings_p(np.concatenate([calm, noisy]), np.ones(50), 5)
    assert alone < 1e-6
    assert together[0] > 0.05
    # A pair of wilder trainings than the others keeps its own variance.
    wild = generator(23).normal(0.5, 2.0, (1, 4, 1)) + np.zeros((1, 4, 50))
    found = stats.trainings_p(np.concatenate([wild, noisy]), np.ones(50), 5)[0]
    t = abs(wild.mean()) / np.sqrt(wild[0, :, 0].var(ddof=1) / 4)
    assert found == pytest.approx(2 * scipy_stats.t.sf(t, 12), rel=1e-6)


def test_few_seeds_say_nothing_of_trainings():
    assert np.isnan(stats.trainings_p(np.ones((3, 2, 5)), np.ones(5), 3)).all()
    assert stats.trainings_p(np.zeros((1, 3, 5)), np.ones(5), 2) == pytest.approx([1])
