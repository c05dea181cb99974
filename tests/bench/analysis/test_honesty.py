"""Tests reject true nulls as often as they say, and intervals hold the truth as often.

Measured on recentred real differences with real group sizes; `pytest -s` prints the table that
docs/statistics.md shows.
"""

import os
from itertools import combinations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from bench.analysis import stats
from bench.analysis.rates import rate_interval, wider
from tests.bench.analysis.recorded import Population, balanced_flips, recorded, starts

SEEDS, GROUPS, ALPHA = (3, 5, 10), (20, 120, 245), 0.05
# The bounds below follow the number of trials; the table of the docs was made with so many.
TRIALS = int(os.environ.get("BENCH_TRIALS", "400"))
RESAMPLES = 599
NAMES = ("AUC_mAP", "M_new_new", "M_new_old", "AUC_NFR_at_1")
PAIRS = np.array(list(combinations(range(5), 2)))
HIGHEST = scipy_stats.binom.ppf(0.999, TRIALS, ALPHA) / TRIALS
LOWEST = scipy_stats.binom.ppf(0.001, TRIALS, 1 - ALPHA) / TRIALS

SIZES = [(seeds, groups) for seeds in SEEDS for groups in GROUPS]
pytestmark = [pytest.mark.slow, pytest.mark.parametrize(("seeds", "groups"), SIZES)]


def printed(what, seeds, groups, found):
    listed = " | ".join(f"{value:.3f}" for value in found)
    print(f"\n| {what} | {seeds} | {groups} | {listed} |")


def shares(found):
    return np.mean(np.array(found), axis=0)


def population(names, seeds, random, training):
    return Population(np.stack([recorded()[0][name] for name in names]), seeds, random, training)


def test_false_positives_of_each_test(seeds, groups):
    """The trained models fixed: AP and areas by sign flips, flips exactly, a column of pairs."""
    random = np.random.default_rng([1, seeds, groups])
    real, flips = population(NAMES, seeds, random, 0.0), balanced_flips(4, 1, random).sum(0)
    single, exact, column = [], [], []
    for _ in range(TRIALS):
        p = p_values(real.draw(groups)[0], random)
        single.append(p[:, 0] <= ALPHA)
        drawn = flips[random.integers(0, len(flips), groups)]
        exact.append(stats.mcnemar_p(drawn)[0] <= ALPHA)
        column.append([(stats.holm(each) <= ALPHA).any() for each in p])
    found = [*shares(single), shares(exact), shares(column).max()]
    printed("rejected", seeds, groups, found)
    assert max(found) <= HIGHEST


def p_values(sums, random):
    """Uncorrected p-values [C, P] of every pair, of sums [C, M, S, G]."""
    summed = sums.sum(-2)
    pairs = summed[:, PAIRS[:, 0]] - summed[:, PAIRS[:, 1]]  # [C, P, G]
    columns = pairs.reshape(-1, pairs.shape[-1]).T
    return stats.sign_flip_p(columns, random, 999).reshape(pairs.shape[:2])


def test_a_table_of_five_methods_holds_few_false_claims(seeds, groups):
    """Trainings and groups drawn anew: a claim also needs an interval over seeds beside 0."""
    random = np.random.default_rng([4, seeds, groups])
    real, fixed_models = (population(NAMES, seeds, random, each) for each in (1.0, 0.0))
    trials = TRIALS // 2
    column, table, fixed = [], [], []
    for _ in range(trials):
        sums, sizes = real.draw(groups)
        values = (sums / sizes).reshape(-1, seeds, groups).transpose(1, 2, 0)

        def difference(means):
            each = means.reshape(*means.shape[:-1], len(NAMES), 5)
            found = each[..., PAIRS[:, 0]] - each[..., PAIRS[:, 1]]
            return found.reshape(*found.shape[:-2], -1)

        found = stats.hierarchical_interval(
            values, random, difference, resamples=399, weights=sizes
        )
        beside = ((found.low > 0) | (found.high < 0)).reshape(len(NAMES), -1)
        pairs = sums[:, PAIRS[:, 0]] - sums[:, PAIRS[:, 1]]
        over = np.stack([stats.holm(stats.trainings_p(each, sizes, 5)) for each in pairs])
        p = np.stack([stats.holm(each) for each in p_values(sums, random)])
        p = np.maximum(p, over) <= ALPHA
        column.append((p & beside).any(1))
        table.append((p & beside).any())
        still = p_values(fixed_models.draw(groups)[0], random)
        fixed.append(any((stats.holm(each) <= ALPHA).any() for each in still))
    found = [shares(column).max(), shares(table), shares(fixed)]
    printed("claims", seeds, groups, found)
    # The family that is corrected for is a column; over four columns errors add up.
    assert found[0] <= scipy_stats.binom.ppf(0.999, trials, ALPHA) / trials


def test_intervals_hold_the_truth(seeds, groups):
    """Trainings and groups drawn anew: differences, means, and rates that are rare."""
    random = np.random.default_rng([2, seeds, groups])
    names = ("AUC_mAP", "M_new_new", "AUC_NFR_at_1")
    populations = [population([name], seeds, random, 1.0) for name in names]
    held, claimed = [], []
    for _ in range(TRIALS):
        row, claims = [], []
        for real in populations:
            (sums,), sizes = real.draw(groups)
            difference = sums[3] - sums[0]
            values = np.stack([difference, sums[3]], -1) / sizes[:, None]
            found = stats.hierarchical_interval(values, random, resamples=RESAMPLES, weights=sizes)
            row += [*((found.low <= 0) & (found.high >= 0))]
            p = stats.sign_flip_p(difference.sum(0), random, RESAMPLES)[0]
            claims.append(p <= ALPHA and not row[-2])
        held.append(row)
        claimed.append(claims)
    found = shares(held)
    printed("held", seeds, groups, [*found, shares(claimed).max()])
    assert found.min() >= LOWEST
    assert shares(claimed).max() <= HIGHEST


def test_intervals_of_rates_hold_the_truth(seeds, groups):
    """Flips at 0 % of other groups: 0.4 %, 13 % and 41 % of all queries."""
    random = np.random.default_rng([3, seeds, groups])
    values, sizes = recorded()
    first = starts(sizes)
    rare = values["NFR_at_1@0%"] * (random.random(sizes.sum()) < 0.03)
    found = []
    for flips in (rare[1], values["NFR_at_1@0%"][1], values["NFR_at_1@0%"][2]):
        truth, held = flips.mean(), 0
        for _ in range(TRIALS):
            drawn = random.integers(0, len(sizes), groups)
            rows = np.concatenate([np.arange(first[g], first[g] + sizes[g]) for g in drawn])
            number = np.repeat(np.arange(groups), sizes[drawn])
            outcomes = flips[random.integers(0, 3, seeds)][:, rows]
            bootstrap = stats.hierarchical_interval(
                outcomes[..., None], random, resamples=199, groups=number
            )
            interval = wider(bootstrap, rate_interval(outcomes.mean(0), number))
            held += interval.low[0] <= truth <= interval.high[0]
        found.append(held / TRIALS)
    printed("rates held", seeds, groups, found)
    assert min(found) >= LOWEST
