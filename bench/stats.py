"""Statistics on per-query arrays: pure functions, seeded by the generator that they are given.

All arrays hold one number per query: S seeds (trained models), Q queries, C columns (methods, pairs
of methods, points of a curve). Queries are the same for every seed, so the query is the unit that
tests flip and intervals resample: the S differences of one query stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from bench.errors import BenchError

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
RESAMPLES = 10_000
LEAST_SEEDS = 3  # with fewer, nothing can be said about the variance of training
_BLOCK_ENTRIES = 1 << 20


# ------------------------------------------------------------------------------------------- tests


def sign_flip_p(
    differences: ArrayLike, generator: np.random.Generator, resamples: int = RESAMPLES
) -> Array:
    """Two-sided p-values [C] of paired differences [Q, C], by flipping the signs of queries.

    Give the differences summed (or averaged) over seeds: what is flipped is a whole query. The
    null hypothesis is that the two methods' numbers could be exchanged in every query; the
    trained models are fixed. p = (b + 1) / (m + 1), never 0 (Phipson and Smyth, 2010). All columns
    meet the same flips.
    """
    values = _table(differences, "differences")
    # Equal sums may differ in their last bits; a tie counts as extreme.
    tolerance = 1e-11 * np.abs(values).sum(0)
    total = values.sum(0)
    threshold = np.abs(total) - tolerance
    extreme = np.zeros(values.shape[1], dtype=np.int64)
    for count in _blocks(resamples, len(values)):
        bits = generator.integers(0, 256, (count, -(-len(values) // 8)), dtype=np.uint8)
        kept = np.unpackbits(bits, axis=1, count=len(values)).astype(np.float64)
        extreme += (np.abs(2 * (kept @ values) - total) >= threshold).sum(0)
    p: Array = (extreme + 1) / (resamples + 1)
    return p


def mcnemar_p(differences: ArrayLike) -> Array:
    """Exact two-sided p-values [C] of paired outcomes, from whole differences [Q, C].

    With one seed the differences of two methods' 0/1 outcomes are −1, 0 or 1, and this is the
    exact McNemar test. With S seeds give their sums over seeds, −S..S: the test then flips whole
    queries, and its null distribution is a sum of binomials, still exact. Never 0.
    """
    values = _table(differences, "differences")
    whole = np.rint(values).astype(np.int64)
    if not np.array_equal(whole, values):
        raise BenchError(
            "exact McNemar got differences that are not whole numbers; give counts of outcomes, "
            "or use sign_flip_p"
        )
    return np.array([_exact_sign_flip_p(column) for column in whole.T])


def _exact_sign_flip_p(differences: NDArray[np.int64]) -> float:
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances = np.ones(1)  # of Σ |d| over the positive differences being 0, 1, 2, …
    for size, count in zip(sizes, counts, strict=True):
        steps = np.zeros(size * count + 1)
        steps[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, steps)
    positive = int(differences[differences > 0].sum())
    larger = max(positive, len(chances) - 1 - positive)
    p = min(1.0, 2 * float(chances[larger:].sum()))
    return max(p, float(np.finfo(np.float64).tiny))


def holm(p: ArrayLike) -> Array:
    """Correct the p-values of one family for the family-wise error rate (Holm, 1979)."""
    # statsmodels' multipletests gives the same, after a garbage collection of 0.1 s at each call.
    family = np.asarray(p, dtype=np.float64)
    order = np.argsort(family, axis=None)
    steps = family.ravel()[order] * np.arange(family.size, 0, -1)
    corrected = np.empty(family.size)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.reshape(family.shape)


# --------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Interval:
    """Estimates with bounds, and what the interval covers: seeds (training) as well or not."""

    estimate: Array
    low: Array
    high: Array
    level: float
    covers_seeds: bool


def hierarchical_interval(
    values: ArrayLike,
    generator: np.random.Generator,
    statistic: Statistic | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Interval:
    """Bootstrap interval of a mean over seeds and queries, of `values` [S, Q, C].

    `statistic` maps means over queries [..., S, C] to what is of interest per seed [..., S, K]; by
    default the means themselves. Seeds are resampled, then queries: the same queries for all of
    them, since seeds share queries (the pigeonhole bootstrap of Owen, 2007). With S seeds their
    resampled mean is stretched by √(S / (S − 1)) · t / z, so that few seeds give the width of
    Student's t rather than one that is too narrow (Hesterberg, 2015). With fewer than 3 seeds
    only queries are resampled and `covers_seeds` is False.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 3 or not table.size:
        raise BenchError(f"bootstrap got values of shape {table.shape}; expected [S, Q, C]")
    if np.isnan(table).any():
        raise BenchError("bootstrap got values that are not numbers; leave incomplete seeds out")
    statistic = statistic or (lambda means: means)
    seeds, queries, columns = table.shape
    flat = table.transpose(1, 0, 2).reshape(queries, seeds * columns)
    draws = []
    for count in _blocks(resamples, queries):
        means = _resampled_sums(flat, count, generator) / queries
        per_seed = statistic(means.reshape(count, seeds, columns))
        weights = _seed_weights(seeds, count, generator, level)
        draws.append(np.einsum("rs,rsk->rk", weights, per_seed))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.concatenate(draws), tails, axis=0)
    estimate = statistic(table.mean(1)[None])[0].mean(0)
    return Interval(estimate, low, high, level, seeds >= LEAST_SEEDS)


def _resampled_sums(flat: Array, count: int, generator: np.random.Generator) -> Array:
    """Sums over queries drawn with replacement: [Q, X] → [count, X]."""
    queries = len(flat)
    drawn = generator.integers(0, queries, (count, queries))
    drawn += np.arange(count)[:, None] * queries
    times = np.bincount(drawn.ravel(), minlength=count * queries).reshape(count, queries)
    sums: Array = times.astype(np.float64) @ flat
    return sums


def _seed_weights(seeds: int, count: int, generator: np.random.Generator, level: float) -> Array:
    """Weights [count, S] of the seeds in each resample, with the stretch that few seeds need."""
    even = np.full((count, seeds), 1 / seeds)
    if seeds < LEAST_SEEDS:
        return even
    tail = (1 + level) / 2
    stretch = np.sqrt(seeds / (seeds - 1)) * stats.t.ppf(tail, seeds - 1) / stats.norm.ppf(tail)
    weights: Array = even + stretch * (generator.multinomial(seeds, even) / seeds - even)
    return weights


# ------------------------------------------------------------------------------------ effect sizes


@dataclass(frozen=True)
class Effect:
    """How large the differences of one pair are, over queries.

    `cohen_dz`: mean divided by the standard deviation; `rank_biserial`: share of the ranked
    absolute differences that favours the first minus the share that favours the second (matched
    pairs, Kerby, 2014); both 0 where nothing differs. Wins, ties and losses count queries.
    """

    mean: float
    cohen_dz: float
    rank_biserial: float
    wins: int
    ties: int
    losses: int


def effects(differences: ArrayLike) -> list[Effect]:
    """Effect size of each column of paired differences [Q, C] (averaged over seeds)."""
    return [_effect(column) for column in _table(differences, "differences").T]


def _effect(differences: Array) -> Effect:
    mean = float(differences.mean())
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    nonzero = differences[differences != 0]
    ranks = stats.rankdata(np.abs(nonzero))
    favour = float((np.sign(nonzero) * ranks).sum() / ranks.sum()) if len(nonzero) else 0.0
    # Constant differences have no spread: their effect is without bound, in their direction.
    scaled = mean / spread if spread > 1e-12 * abs(mean) else (np.inf * mean if mean else 0.0)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    ties = len(differences) - wins - losses
    return Effect(mean, scaled, favour, wins, ties, losses)


@dataclass(frozen=True)
class Detectable:
    """Smallest true mean difference found with the given power, in the unit of the values.

    `models_fixed`: between these trained models, over other queries. `over_training`: between the
    methods, over other trainings; NaN with fewer than 3 seeds.
    """

    models_fixed: float
    over_training: float


def minimum_detectable_difference(
    differences: ArrayLike, alpha: float = 0.05, power: float = 0.8
) -> Detectable:
    """Minimum detectable difference for paired differences [S, Q] of two methods.

    By the power of the paired t test, over queries (averaged over seeds) and over seeds (averaged
    over queries). For a family of m comparisons give alpha / m, Holm's first step.
    """
    values = _table(differences, "differences")
    seeds = values.mean(1)
    over_training = _detectable(seeds, alpha, power) if len(seeds) >= LEAST_SEEDS else np.nan
    return Detectable(_detectable(values.mean(0), alpha, power), over_training)


def _detectable(sample: Array, alpha: float, power: float) -> float:
    if len(sample) < 2:
        return float("nan")
    freedom = len(sample) - 1
    error = float(sample.std(ddof=1)) / np.sqrt(len(sample))
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    return float(error * special.nctdtrinc(freedom, 1 - power, critical))


# ------------------------------------------------------------------------------ across scenarios


@dataclass(frozen=True)
class Ranking:
    """Mean ranks [k] over scenarios (1 is best), Friedman's test, and Nemenyi's comparisons.

    Methods whose mean ranks differ by less than `critical_difference` are not told apart.
    """

    mean_ranks: Array
    scenarios: int
    p: float
    nemenyi_p: Array
    critical_difference: float


def rank_methods(scores: ArrayLike, alpha: float = 0.05) -> Ranking:
    """Compare k methods over N scenarios by `scores` [N, k], larger is better (Demšar, 2006).

    Raises BenchError with fewer than 3 methods or 2 scenarios, for which Friedman's test says
    nothing.
    """
    import scikit_posthocs  # slow to import: it brings seaborn along

    table = _table(scores, "scores")
    scenarios, methods = table.shape
    if methods < 3 or scenarios < 2:
        raise BenchError(
            f"ranking got {methods} methods in {scenarios} scenarios; Friedman's test needs at "
            "least 3 methods in 2 scenarios"
        )
    ranks = stats.rankdata(-table, axis=1)
    differs = bool((ranks != ranks[:, :1]).any())
    p = float(stats.friedmanchisquare(*table.T).pvalue) if differs else 1.0
    nemenyi = scikit_posthocs.posthoc_nemenyi_friedman(table).to_numpy(np.float64)
    quantile = stats.studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    critical = float(quantile * np.sqrt(methods * (methods + 1) / (6 * scenarios)))
    return Ranking(ranks.mean(0), scenarios, p, nemenyi, critical)


# ----------------------------------------------------------------------------------------- helpers


def _table(values: Any, name: str) -> Array:
    """Check a table of numbers [n, m] with at least one row; a single column may be flat."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or not len(table):
        raise BenchError(f"{name} have shape {table.shape}; expected a table with rows")
    if np.isnan(table).any():
        raise BenchError(f"{name} hold values that are not numbers; leave incomplete queries out")
    return table


def _blocks(total: int, width: int) -> Iterator[int]:
    """Split resamples into blocks that hold a bounded number of entries each."""
    size = max(1, _BLOCK_ENTRIES // max(width, 1))
    for start in range(0, total, size):
        yield min(size, total - start)
