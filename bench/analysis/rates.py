"""Bounds of rates that may be near 0 or seen on few queries, where a bootstrap has no width.

`groups` [Q] numbers the group of each query from 0; without them each query is its own. Queries of
one group are hit together, so that they count as fewer than they are. `weights` [Q] are traffic.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bench.analysis.stats import Interval, effective_groups, group_sums
from bench.errors import BenchError

Array = NDArray[np.float64]
Index = NDArray[np.int64]
LEVEL = 0.95
_PRIOR_HITS = 3


def rate_interval(
    values: ArrayLike,
    groups: Index | None = None,
    level: float = LEVEL,
    weights: Array | None = None,
) -> Interval:
    """Bound the rates of C columns of outcomes [Q, C] in [0, 1], the models held fixed.

    Clopper and Pearson's exact limits with the effective number of queries that clustering and
    weights leave (Korn and Graubard, 1998). Never without width. Outcomes may be means over seeds.
    """
    table = _outcomes(values)
    rate = np.average(table, axis=0, weights=weights)
    low, high = _clopper_pearson(rate, effective_number(table, groups, weights), level)
    return Interval(rate, low, high, level, covers_seeds=False)


def largest_rate_interval(
    values: ArrayLike,
    groups: Index | None = None,
    level: float = LEVEL,
    weights: Array | None = None,
) -> Interval:
    """Bound the largest of C rates [1] of outcomes [Q, C]: NFR at its worst share.

    The upper bound of the column whose true rate is largest holds by itself, so the largest upper
    bound does, too; the largest lower bound needs Bonferroni's correction.
    """
    table = _outcomes(values)
    found = rate_interval(table, groups, level, weights)
    corrected = rate_interval(table, groups, 1 - (1 - level) / table.shape[1], weights)
    estimate, low, high = (
        np.array([part.max()]) for part in (found.estimate, corrected.low, found.high)
    )
    return Interval(estimate, low, high, level, covers_seeds=False)


def with_width(
    found: Interval,
    values: ArrayLike,
    groups: Index | None = None,
    weights: Array | None = None,
    least: float = 0.0,
) -> Interval:
    """Bound exactly what a bootstrap left unknown: means [C] of identical values [Q, C].

    Values lie between `least` and 1; their means are bounded like rates.
    """
    unknown = np.isnan(found.low)
    if not unknown.any():
        return found
    span = 1 - least
    exact = rate_interval((np.asarray(values) - least) / span, groups, found.level, weights)
    low, high = (
        np.where(unknown, least + span * of_rate, bound)
        for of_rate, bound in ((exact.low, found.low), (exact.high, found.high))
    )
    return Interval(found.estimate, low, high, found.level, found.covers_seeds)


def wider(one: Interval, other: Interval) -> Interval:
    """Take the outer bounds of two intervals of the same estimates; unknown ones bound nothing."""
    low, high = np.fmin(one.low, other.low), np.fmax(one.high, other.high)
    return Interval(one.estimate, low, high, one.level, one.covers_seeds or other.covers_seeds)


def effective_number(
    values: ArrayLike, groups: Index | None = None, weights: Array | None = None
) -> Array:
    """Effective number of independent queries [C] of outcomes [Q, C]: between 1 and Q.

    N / (1 + (m − 1) ρ), with N = (Σw)² / Σw² queries of equal weight, m of them in a group of
    typical size, and the correlation ρ within groups that the variance of the rate implies. Few
    hits cannot show ρ: it is drawn towards 1, as if three more queries had been hit, all in one
    group. Without any hit the number is that of effective groups.
    """
    outcomes = _outcomes(values)
    weight = np.ones(len(outcomes)) if weights is None else np.asarray(weights, dtype=np.float64)
    queries = effective_groups(weight)
    if groups is None:
        return np.full(outcomes.shape[1], queries)
    size = max(1.0, queries / effective_groups(group_sums(weight, groups)))
    rate = np.average(outcomes, axis=0, weights=weight)
    hits = queries * np.minimum(rate, 1 - rate)
    correlation = _correlation(outcomes, groups, weight, size)
    drawn = (hits * correlation + _PRIOR_HITS) / (hits + _PRIOR_HITS)
    found: Array = queries / (1 + (size - 1) * drawn)
    return found


def _correlation(outcomes: Array, groups: Index, weight: Array, size: float) -> Array:
    """Correlation within groups [C], by how much the rate varies more than it would without."""
    rate = np.average(outcomes, axis=0, weights=weight)
    independent = rate * (1 - rate) / effective_groups(weight)
    sums = group_sums((outcomes - rate) * weight[:, None], groups)
    number = len(sums)
    unknown = (independent <= 0) | (number < 2) | (size <= 1)
    variance = (sums**2).sum(0) / weight.sum() ** 2 * (number / max(number - 1, 1))
    inflation = np.divide(variance, independent, out=np.ones_like(rate), where=~unknown)
    return np.where(unknown, 1.0, np.clip((inflation - 1) / max(size - 1, 1e-12), 0, 1))


def _clopper_pearson(rate: Array, number: Array, level: float) -> tuple[Array, Array]:
    tail, hits = (1 - level) / 2, rate * number
    misses = number - hits
    with np.errstate(invalid="ignore"):
        low = np.where(hits > 0, stats.beta.ppf(tail, hits, misses + 1), 0.0)
        high = np.where(misses > 0, stats.beta.ppf(1 - tail, hits + 1, misses), 1.0)
    return low, high


def _outcomes(values: ArrayLike) -> Array:
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not table.size or not ((table >= 0) & (table <= 1)).all():
        raise BenchError(
            f"a rate got outcomes of shape {table.shape}; expected numbers from 0 to 1 [Q, C], "
            "with at least one query"
        )
    return table
