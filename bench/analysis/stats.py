"""Statistics on per-query arrays: pure functions, seeded by the generator that they are given.

All arrays hold one number per query: S seeds (trained models), Q queries, C columns (methods, pairs
of methods, points of a curve). Queries of one group (a class, a landmark, a person, a product)
share answers and fail together, so that the *group* is what is sampled: tests flip the signs of
whole groups (`group_sums`), intervals resample them, effect sizes and power count them. Queries are
the same for every seed: the S differences of one query stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special, stats

from bench.errors import BenchError

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
RESAMPLES = 10_000
LEAST_SEEDS = 3  # with fewer, nothing can be said about the variance of training
WITHOUT_WIDTH = 1e-12  # of means of numbers up to 1: a width below it is rounding
_BLOCK_ENTRIES = 1 << 20


# ------------------------------------------------------------------------------------------- tests


def sign_flip_p(
    differences: ArrayLike, generator: np.random.Generator, resamples: int = RESAMPLES
) -> Array:
    """Two-sided p-values [C] of paired differences [G, C], by flipping the signs of whole groups.

    The unit is the group: give its differences summed over its queries and over seeds. The null
    hypothesis is that the two methods' numbers could be exchanged in every group; the trained
    models are fixed. p = (b + 1) / (m + 1), never 0 (Phipson and Smyth, 2010). All columns meet the
    same flips.
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
    """Exact two-sided p-values [C] of paired outcomes, from whole differences [G, C].

    The unit is the group: give its differences summed over its queries and over seeds. The test
    flips whole groups, and its null distribution is a sum of binomials. Where every query is its
    own group and there is one seed, the differences are −1, 0 or 1, and this is the exact McNemar
    test. Never 0.
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


def trainings_p(sums: ArrayLike, sizes: Array, methods: int) -> Array:
    """Two-sided p-values [P] of paired differences over other trainings and other groups at once.

    `sums` [P, S, G] are the differences of every pair of `methods` methods, summed over the queries
    of each group, `sizes` [G] how many those are. By t with Satterthwaite's degrees of freedom. How
    much trainings differ cannot be learnt from a few seeds of one pair: it is pooled over the
    pairs, with (methods − 1)(S − 1) degrees of freedom, and never taken to be less than the pair's
    own. NaN with fewer than 3 seeds.
    """
    values = np.asarray(sums, dtype=np.float64)
    pairs, seeds, _ = values.shape
    number = effective_groups(sizes)
    if seeds < LEAST_SEEDS or number <= 1:
        return np.full(pairs, np.nan)
    means = values.sum(-1) / sizes.sum()  # [P, S]
    own = means.var(axis=1, ddof=1) / seeds
    of_seeds = np.maximum(own, own.mean())
    departures = (values - means[..., None] * sizes) / sizes.sum()
    common = departures.mean(1)
    inflation = number / (number - 1)
    both = ((departures - common[:, None]) ** 2).sum((1, 2)) / (seeds - 1) * inflation
    # What a seed does to a group is in the former part already.
    of_groups = np.maximum((common**2).sum(-1) * inflation - both / seeds, 0)
    variance = of_seeds + of_groups
    freedom = _satterthwaite(of_seeds, (methods - 1) * (seeds - 1), of_groups, number - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.abs(means.mean(1)) / np.sqrt(variance)
    p: Array = 2 * stats.t.sf(np.nan_to_num(t, nan=0.0), freedom)
    return p


def _satterthwaite(one: Array, freedom: float, other: Array, further: float) -> Array:
    """Degrees of freedom of the sum of two variances (Satterthwaite, 1946)."""
    parts = one**2 / freedom + other**2 / further
    total = (one + other) ** 2
    return np.divide(total, parts, out=np.full_like(total, freedom), where=parts > 0)


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
    groups: NDArray[np.int64] | None = None,
    weights: Array | None = None,
) -> Interval:
    """Bootstrap interval of a mean over seeds and queries, of `values` [S, Q, C].

    What is resampled are seeds, then whole groups of queries: `groups` [Q] numbers the group of
    each query from 0, by default each is its own; `weights` [Q] are traffic. Bounds are NaN where
    the values leave the resampled estimates without any width: they cannot be told.

    `statistic` maps means over queries [..., S, C] to what is of interest per seed [..., S, K]; by
    default the means themselves. The same groups are drawn for all seeds, since seeds share
    queries, and what seeds and groups each do to the estimate is added up: what one seed does to
    one group counts in both (the pigeonhole bootstrap of Owen, 2007, would count it three times).
    With S seeds their part is stretched by √(S / (S − 1)) · t / z, so that few seeds give the width
    of Student's t rather than one that is too narrow (Hesterberg, 2015); so is that of the groups,
    by how many groups of equal size bear as much. With fewer than 3 seeds only groups are resampled
    and `covers_seeds` is False.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 3 or not table.size:
        raise BenchError(f"bootstrap got values of shape {table.shape}; expected [S, Q, C]")
    if np.isnan(table).any():
        raise BenchError("bootstrap got values that are not numbers; leave incomplete seeds out")
    statistic = statistic or (lambda means: means)
    seeds, queries, columns = table.shape
    weight = np.ones(queries) if weights is None else weights
    flat = table.transpose(1, 0, 2).reshape(queries, seeds * columns) * weight[:, None]
    # The last column holds the size of each group: groups differ in size.
    units = group_sums(np.column_stack([flat, weight]), groups)
    draws = []
    per_seed = statistic(np.average(table, axis=1, weights=weight)[None])
    widening = _stretch(effective_groups(units[:, -1]), level)
    for count in _blocks(resamples, len(units)):
        sums = _resampled_sums(units, count, generator)
        means = sums[:, :-1] / sums[:, -1:]
        of_groups = (statistic(means.reshape(count, seeds, columns)) - per_seed).mean(1)
        of_seeds = _seed_weights(seeds, count, generator, level) @ per_seed[0]
        draws.append(of_seeds + widening * of_groups)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.concatenate(draws), tails, axis=0)
    estimate = per_seed[0].mean(0)
    unknown = high - low <= WITHOUT_WIDTH
    low, high = (np.where(unknown, np.nan, bound) for bound in (low, high))
    return Interval(estimate, low, high, level, seeds >= LEAST_SEEDS)


def effective_groups(sizes: ArrayLike) -> float:
    """Count the groups of equal size that bear as much as these: (Σn)² / Σn² (Kish, 1965)."""
    counts = np.asarray(sizes, dtype=np.float64)
    return float(counts.sum() ** 2 / (counts**2).sum())


def group_sums(values: Array, groups: NDArray[np.int64] | None) -> Array:
    """Sum values [Q, ...] over the queries of each group [Q], numbered from 0: [G, ...].

    Without groups each query is its own, and the values are returned as they are.
    """
    if groups is None:
        return values
    shape = (int(groups.max()) + 1, len(groups))
    members = sparse.csr_array((np.ones(len(groups)), (groups, np.arange(len(groups)))), shape)
    flat = np.reshape(values, (len(values), -1))
    sums: Array = np.asarray(members @ flat, dtype=np.float64)
    return sums.reshape(shape[0], *values.shape[1:])


def _resampled_sums(flat: Array, count: int, generator: np.random.Generator) -> Array:
    """Sums over units drawn with replacement: [Q, X] → [count, X]."""
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
    drawn = generator.multinomial(seeds, even) / seeds
    weights: Array = even + _stretch(seeds, level) * (drawn - even)
    return weights


def _stretch(units: float, level: float) -> float:
    """By how much Student's interval of so many units is wider than their bootstrap's."""
    if units <= 1:
        return 1.0
    tail = (1 + level) / 2
    student = stats.t.ppf(tail, units - 1) / stats.norm.ppf(tail)
    return float(np.sqrt(units / (units - 1)) * student)


# ------------------------------------------------------------------------------------ effect sizes


@dataclass(frozen=True)
class Effect:
    """How large the differences of one pair are, over groups of queries.

    `cohen_dz`: mean divided by the standard deviation; `rank_biserial`: share of the ranked
    absolute differences that favours the first minus the share that favours the second (matched
    pairs, Kerby, 2014); both 0 where nothing differs. Wins, ties and losses count groups, whose
    differences are means over their queries.
    """

    mean: float
    cohen_dz: float
    rank_biserial: float
    wins: int
    ties: int
    losses: int


def effects(differences: ArrayLike) -> list[Effect]:
    """Effect size of each column of paired differences [G, C] of groups (averaged over seeds)."""
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

    `models_fixed`: between these trained models, over other groups of queries. `over_training`:
    between the methods, over other trainings; NaN with fewer than 3 seeds.
    """

    models_fixed: float
    over_training: float


def minimum_detectable_difference(
    sums: ArrayLike, alpha: float = 0.05, power: float = 0.8, sizes: Array | None = None
) -> Detectable:
    """Minimum detectable difference for paired differences of two methods, by group.

    `sums` [S, G] are summed over the queries of each group, `sizes` [G] says how many those are (by
    default 1). By the power of the paired t test, over groups (averaged over seeds) and over seeds
    (averaged over groups). For a family of m comparisons give alpha / m, Holm's first step.
    """
    values = _table(sums, "differences")
    counts = np.ones(values.shape[1]) if sizes is None else sizes
    models_fixed = _detectable(*clustered_error(values.mean(0), counts), alpha, power)
    if len(values) < LEAST_SEEDS:
        return Detectable(models_fixed, np.nan)
    seeds = values.sum(1) / counts.sum()
    over_training = _detectable(*clustered_error(seeds, np.ones(len(seeds))), alpha, power)
    return Detectable(models_fixed, over_training)


def clustered_error(sums: Array, sizes: Array) -> tuple[float, float]:
    """Standard error of a mean over queries, and how many groups of equal size bear as much.

    From what the `sums` [G] of groups of `sizes` [G] depart from what the mean would make them (a
    ratio estimate: Cochran, 1977, chapter 6). NaN where one group is all there is.
    """
    number = effective_groups(sizes)
    if number <= 1:
        return float("nan"), number
    departures = sums - sizes * (sums.sum() / sizes.sum())
    squares = float((departures**2).sum()) * number / (number - 1)
    return float(np.sqrt(squares) / sizes.sum()), number


def _detectable(error: float, number: float, alpha: float, power: float) -> float:
    if not error >= 0:
        return float("nan")
    critical = stats.t.ppf(1 - alpha / 2, number - 1)
    return float(error * special.nctdtrinc(number - 1, 1 - power, critical))


# ------------------------------------------------------------------------------ across scenarios


@dataclass(frozen=True)
class Ranking:
    """Mean ranks [k] over scenarios (1 is best), Friedman's test, and Nemenyi's comparisons.

    Methods whose mean ranks differ by less than `critical_difference` do not differ significantly.
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
