"""Bounds of rates against tables, other libraries and simulated groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from bench.analysis import rates, stats
from bench.errors import BenchError

ICONS = np.array([4] * 30 + [6] * 70 + [8] * 70 + [10] * 50 + [16] * 15 + [26] * 10)


def groups_of(sizes):
    return np.repeat(np.arange(len(sizes)), sizes)


def test_no_hit_among_ten_is_bounded_by_what_the_exact_table_says():
    found = rates.rate_interval(np.zeros(10))
    assert (found.estimate[0], found.low[0]) == (0, 0)
    assert found.high[0] == pytest.approx(0.3085, abs=5e-5)
    assert rates.rate_interval(np.ones(10)).low[0] == pytest.approx(1 - 0.3085, abs=5e-5)


@given(st.integers(1, 60), st.data())
def test_independent_queries_have_clopper_and_pearsons_limits(queries, data):
    hits = data.draw(st.integers(0, queries))
    found = rates.rate_interval(np.arange(queries) < hits)
    expected = proportion_confint(hits, queries, method="beta")
    assert (found.low[0], found.high[0]) == pytest.approx(expected, abs=1e-9)


def test_groups_worked_by_hand():
    # Sizes 1, 1, 2: (Σn)² / Σn² = 16 / 6.
    groups = np.array([0, 1, 2, 2])
    assert stats.effective_groups([1, 1, 2]) == pytest.approx(16 / 6)
    assert rates.effective_number(np.zeros(4), groups) == pytest.approx(16 / 6)
    # Four pairs, the two of a pair alike: ρ = 1, whatever is drawn towards 1, so n is 4 pairs.
    pairs = np.repeat(np.arange(4), 2)
    assert rates.effective_number([1, 1, 0, 0, 1, 1, 0, 0], pairs) == pytest.approx(4)
    # Each pair half hit: variance 0, ρ = 0, and 4 hits draw it to 3 / 7: n = 8 / (1 + 3 / 7).
    assert rates.effective_number([1, 0, 1, 0, 1, 0, 1, 0], pairs) == pytest.approx(8 / (1 + 3 / 7))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_the_effective_number_lies_between_groups_and_queries(sizes, seed):
    groups = groups_of(sizes)
    outcomes = np.random.default_rng(seed).random((len(groups), 3)) < 0.4
    number = rates.effective_number(outcomes, groups)
    assert (number <= len(groups) + 1e-9).all()
    assert (number >= stats.effective_groups(np.bincount(groups)) - 1e-9).all()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_no_interval_is_without_width_and_one_group_tells_next_to_nothing(sizes, seed):
    groups = groups_of(sizes)
    outcomes = np.random.default_rng(seed).random(len(groups)) < 0.2
    found = rates.rate_interval(outcomes, groups)
    assert found.low[0] <= found.estimate[0] <= found.high[0]
    assert found.high[0] - found.low[0] > 0.01
    if len(sizes) == 1:
        assert found.high[0] - found.low[0] > 0.9


def test_queries_that_fail_together_count_less():
    groups = np.repeat(np.arange(50), 10)
    together = (groups < 5).astype(float)
    apart = (np.arange(500) % 10 == 0).astype(float)
    clustered, spread = (rates.rate_interval(each, groups) for each in (together, apart))
    assert clustered.estimate == spread.estimate
    assert clustered.high[0] > spread.high[0]
    assert clustered.low[0] < spread.low[0]
    assert clustered.high[0] == pytest.approx(proportion_confint(5, 50, method="beta")[1], abs=1e-9)


def hit_together(random, sizes, rate, correlation, trials):
    """Outcomes [Q, trials] whose groups have beta-distributed rates: a known correlation."""
    if correlation:
        weight = 1 / correlation - 1
        chances = random.beta(rate * weight, (1 - rate) * weight, (len(sizes), trials))
    else:
        chances = np.full((len(sizes), trials), rate)
    return random.random((sizes.sum(), trials)) < chances[groups_of(sizes)]


@pytest.mark.parametrize("number", [20, 120, 245])
@pytest.mark.parametrize("rate", [0.002, 0.01, 0.05, 0.15])
@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.5])
def test_bounds_hold_the_true_rate_as_often_as_they_say(number, rate, correlation):
    random = np.random.default_rng([number, int(1000 * rate), int(10 * correlation)])
    sizes, trials = random.choice(ICONS, number), 1000
    found = rates.rate_interval(
        hit_together(random, sizes, rate, correlation, trials), groups_of(sizes)
    )
    missed_above = (found.high < rate).sum()
    missed_below = (found.low > rate).sum()
    most = scipy_stats.binom.ppf(0.999, trials, 0.05)
    assert missed_above + missed_below <= most


def test_the_largest_rate_is_bounded_above_by_every_column():
    random = np.random.default_rng(3)
    truth = np.array([0.02, 0.05, 0.04])
    passed = 0
    for _ in range(400):
        found = rates.largest_rate_interval(random.random((200, 3)) < truth)
        passed += found.low[0] <= truth.max() <= found.high[0]
    assert passed >= scipy_stats.binom.ppf(0.001, 400, 0.95)
    assert rates.largest_rate_interval(np.zeros((10, 3))).high[0] == pytest.approx(0.3085, abs=5e-5)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=9), st.integers(0, 2**32 - 1))
def test_traffic_of_equal_weight_changes_nothing_and_none_is_left_out(sizes, seed):
    random, groups = np.random.default_rng(seed), groups_of(sizes)
    outcomes = random.random((len(groups), 2)) < 0.3
    weights = np.full(len(groups), 7.0)
    plain = rates.rate_interval(outcomes, groups)
    same = rates.rate_interval(outcomes, groups, weights=weights)
    assert (same.low, same.high) == (pytest.approx(plain.low), pytest.approx(plain.high))
    kept = groups < len(sizes) - 1
    without = rates.rate_interval(outcomes, groups, weights=np.where(kept, 7.0, 0.0))
    alone = rates.rate_interval(outcomes[kept], groups[kept])
    assert without.estimate == pytest.approx(alone.estimate)
    assert without.low == pytest.approx(alone.low, abs=0.02)  # one empty group more


def test_one_query_with_nearly_all_traffic_is_nearly_one_query():
    weights = np.array([1000.0, *np.ones(99)])
    assert rates.rate_interval(np.zeros(100), weights=weights).high[0] > 0.9
    assert rates.rate_interval(np.zeros(100)).high[0] < 0.04


def test_a_bootstrap_without_width_is_bounded_exactly():
    generator = np.random.default_rng(0)
    same = stats.hierarchical_interval(np.full((3, 10, 1), 0.0), generator)
    assert np.isnan([same.low[0], same.high[0]]).all()
    found = rates.with_width(same, np.zeros((10, 1)))
    assert (found.low[0], found.high[0]) == (0, pytest.approx(0.3085, abs=5e-5))
    # A difference of 0 between two numbers from 0 to 1: as a rate of 1/2, twice as wide.
    found = rates.with_width(same, np.zeros((10, 1)), least=-1)
    half = proportion_confint(5, 10, method="beta")
    assert (found.low[0], found.high[0]) == pytest.approx((2 * half[0] - 1, 2 * half[1] - 1))
    wide = stats.hierarchical_interval(generator.random((3, 10, 1)), generator)
    assert rates.with_width(wide, np.zeros((10, 1))) is wide


def test_the_wider_of_two_intervals_has_the_outer_bounds():
    one = stats.Interval(*np.array([[0.2, 0.5], [0.1, np.nan], [0.3, np.nan]]), 0.95, True)
    two = stats.Interval(*np.array([[0.2, 0.5], [0.15, 0.4], [0.35, 0.6]]), 0.95, False)
    found = rates.wider(one, two)
    assert found.low.tolist() == [0.1, 0.4]
    assert found.high.tolist() == [0.35, 0.6]
    assert found.covers_seeds


@pytest.mark.parametrize("values", [[], [[0.5, 1.5]], [np.nan], np.zeros((2, 2, 2))])
def test_what_is_no_outcome_is_refused(values):
    with pytest.raises(BenchError, match="expected numbers from 0 to 1"):
        rates.rate_interval(values)
