"""Methods compared with one another, and each with the system it replaces: tests and differences.

Every claim rests on a test by whole groups of queries, which holds the trained models fixed. With 3
seeds or more it also rests on one over other trainings and groups, and on an interval over both
that excludes 0. Both tests are corrected for their family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bench.analysis import stats
from bench.analysis.limits import Bound, direction
from bench.analysis.quantities import ALPHA
from bench.analysis.rates import with_width
from bench.analysis.scenario_cells import ScenarioCells

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same queries and seeds; `first` has the better mean.

    `advantage` ≥ 0 is how much better it is, `low` and `high` bound it; `claimed` tells whether
    the difference stands: corrected p ≤ α and, with 3 seeds or more, corrected p over trainings ≤ α
    and a bound above 0. The p over trainings is NaN with fewer seeds.
    """

    first: str
    second: str
    seeds: int
    advantage: float
    low: float
    high: float
    p: float
    corrected_p: float
    p_trainings: float
    corrected_p_trainings: float
    effect: stats.Effect
    detectable: stats.Detectable
    claimed: bool

    def between(self, method: str, reference: str, better: int) -> Bound:
        """Difference `method` − `reference` of the two, in the quantity's own direction."""
        if (self.first, self.second) not in ((method, reference), (reference, method)):
            raise ValueError(f"{method} and {reference} are not compared here")
        if better * (1 if self.first == method else -1) > 0:
            return Bound(self.advantage, self.low, self.high)
        return Bound(-self.advantage, -self.high, -self.low)


@dataclass(frozen=True)
class AgainstOld:
    """What new queries gain on old embeddings, M(n,o) − M(o,o), of one method.

    `side` is +1 where a gain stands, −1 where a loss does, 0 where the two cannot be told apart.
    """

    method: str
    seeds: int
    difference: Bound
    p: float
    corrected_p: float
    side: int


def compare(cells: ScenarioCells) -> dict[str, list[Comparison]]:
    """Compare every pair that shares a seed, in every quantity that has a test.

    The family that p-values are corrected for are the pairs of methods in one quantity.
    """
    by_seeds: dict[tuple[int, ...], list[tuple[str, str]]] = {}
    for one, two in combinations(cells.methods, 2):
        common = tuple(seed for seed in cells.seeds[one] if seed in cells.seeds[two])
        if common:
            by_seeds.setdefault(common, []).append((one, two))
    family = sum(len(pairs) for pairs in by_seeds.values())
    measured: dict[str, list[Comparison]] = {quantity.key: [] for quantity in cells.tested}
    for seeds, pairs in by_seeds.items():
        for key, found in _measured(cells, seeds, pairs, family).items():
            measured[key] += found
    return {key: _judged(found) for key, found in measured.items()}


def against_old(cells: ScenarioCells) -> list[AgainstOld]:
    """Test M(n,o) − M(o,o) of each method by groups; the family are the methods."""
    measured = []
    for method in cells.methods:
        seeds = cells.seeds[method]
        of_seeds = [cells.values[method, seed] for seed in seeds]
        gains = np.stack([each.curves["mAP"][:, 0] - each.old for each in of_seeds])
        found = stats.hierarchical_interval(
            gains[..., None], cells.generator("against old"), groups=cells.groups
        )
        found = with_width(found, gains.mean(0)[:, None], cells.groups, least=-1)
        summed = stats.group_sums(gains.sum(0), cells.groups)
        resamples = _resamples(len(cells.methods))
        p = stats.sign_flip_p(summed, cells.generator("tests against old"), resamples)
        sums = stats.group_sums(gains.T, cells.groups).T
        over = stats.trainings_p(sums[None], cells.sizes, 2)
        measured.append((method, len(seeds), Bound.of(found), float(p[0]), float(over[0])))
    corrected = stats.holm([each[3] for each in measured])
    over = _corrected_where_known(np.array([each[4] for each in measured]))
    return [
        AgainstOld(*each[:4], float(p), _side((p, p_over), each[2]))
        for each, p, p_over in zip(measured, corrected, over, strict=True)
    ]


def _side(corrected_p: tuple[float, float], found: Bound) -> int:
    """On which side of 0 a difference stands; 0 where that cannot be told.

    `corrected_p` is that of the trained models and that over trainings, NaN where seeds are few.
    """
    models, trainings = corrected_p
    if models > ALPHA or trainings > ALPHA:
        return 0
    if np.isnan(trainings):  # the trained models are fixed: the test says it all
        return int(np.sign(found.estimate))
    return direction(found)


def _resamples(family: int) -> int:
    """Enough for the smallest p-value to survive Holm's correction."""
    return max(stats.RESAMPLES, int(2 * family / ALPHA))


def _measured(
    cells: ScenarioCells, seeds: tuple[int, ...], pairs: Sequence[tuple[str, str]], family: int
) -> dict[str, list[Comparison]]:
    """Compare pairs on these seeds, one at a time: p-values are not yet corrected."""
    tested = cells.tested
    methods = list(dict.fromkeys(method for pair in pairs for method in pair))
    values = np.stack(
        [np.stack([_tested(cells, m, seed) for m in methods], axis=1) for seed in seeds]
    )  # [S, Q, M, T], more is better
    first, second = (np.array([methods.index(pair[i]) for pair in pairs]) for i in (0, 1))
    shape = (len(methods), len(tested))

    def difference(means: Array) -> Array:
        each = means.reshape(*means.shape[:-1], *shape)
        found = each[..., first, :] - each[..., second, :]
        return found.reshape(*found.shape[:-2], -1)

    bounds = stats.hierarchical_interval(
        values.reshape(*values.shape[:2], -1),
        cells.generator("differences"),
        difference,
        groups=cells.groups,
    )
    estimate, low, high = (
        part.reshape(len(pairs), len(tested)) for part in (bounds.estimate, bounds.low, bounds.high)
    )
    summed = stats.group_sums(np.moveaxis(values, 0, 1), cells.groups)  # [G, S, M, T]
    p = _p_values(cells, summed.sum(1), first, second, family)
    found: dict[str, list[Comparison]] = {quantity.key: [] for quantity in tested}
    for t, quantity in enumerate(tested):
        differences = (summed[:, :, first, t] - summed[:, :, second, t]).transpose(2, 1, 0)
        over = stats.trainings_p(differences, cells.sizes, len(methods))
        for i, pair in enumerate(pairs):
            known = Bound(float(estimate[i, t]), float(low[i, t]), float(high[i, t]))
            if not known.known:
                each = values[:, :, first[i], t] - values[:, :, second[i], t]
                known = _without_spread(cells, each.mean(0), known)
            both = (float(p[i, t]), float(over[i]))
            found[quantity.key].append(
                _compared(cells.sizes, pair, differences[i], known, both, family)
            )
    return found


def _without_spread(cells: ScenarioCells, differences: Array, known: Bound) -> Bound:
    """Bound the mean of identical differences [Q], which a bootstrap cannot."""
    value, low, high = (np.array([part]) for part in (known.estimate, known.low, known.high))
    found = stats.Interval(value, low, high, level=0.95, covers_seeds=False)
    return Bound.of(with_width(found, differences[:, None], cells.groups, least=-1))


def _tested(cells: ScenarioCells, method: str, seed: int) -> Array:
    """Values of the tested quantities in every query of one cell, more is better: [Q, T]."""
    cell = cells.values[method, seed]
    return np.stack([cell.of(quantity, cells.shares) for quantity in cells.tested], axis=1)


def _p_values(cells: ScenarioCells, summed: Array, first: Rows, second: Rows, family: int) -> Array:
    """Uncorrected p-values [pairs, T] of values summed over seeds and groups [G, M, T]."""
    tested = cells.tested
    p = np.empty((len(first), len(tested)))
    flipped = [t for t, quantity in enumerate(tested) if quantity.test == "sign-flip"]
    columns = summed[:, :, flipped]
    differences = (columns[:, first] - columns[:, second]).reshape(len(summed), -1)
    found = stats.sign_flip_p(differences, cells.generator("tests"), _resamples(family))
    p[:, flipped] = found.reshape(len(first), len(flipped))
    for t, quantity in enumerate(tested):
        if quantity.test == "McNemar":
            p[:, t] = stats.mcnemar_p(summed[:, first, t] - summed[:, second, t])
    return p


def _compared(
    sizes: Array,
    pair: tuple[str, str],
    sums: Array,
    known: Bound,
    p: tuple[float, float],
    family: int,
) -> Comparison:
    """Compare a pair by the advantage of its first method, summed over groups [S, G].

    `p` is that of these models and that over trainings, both not yet corrected.
    """
    if known.estimate < 0:
        pair, sums = pair[::-1], -sums
        known = Bound(-known.estimate, -known.high, -known.low)
    contributions = sums.mean(0) * (len(sizes) / sizes.sum())
    return Comparison(
        *pair,
        seeds=len(sums),
        advantage=known.estimate,
        low=known.low,
        high=known.high,
        p=p[0],
        corrected_p=p[0],
        p_trainings=p[1],
        corrected_p_trainings=p[1],
        effect=stats.effects(contributions)[0],
        detectable=_detectable(sums, sizes, family),
        claimed=False,
    )


def _detectable(sums: Array, sizes: Array, family: int) -> stats.Detectable:
    """Smallest differences a claim finds: at Holm's first step over groups, at α over seeds."""
    return stats.Detectable(
        stats.minimum_detectable_difference(sums, ALPHA / family, sizes=sizes).models_fixed,
        stats.minimum_detectable_difference(sums, ALPHA, sizes=sizes).over_training,
    )


def _judged(family: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of a family and decide which differences stand."""
    corrected = stats.holm([each.p for each in family])
    over = _corrected_where_known(np.array([each.p_trainings for each in family]))
    return [
        replace(
            each,
            corrected_p=float(p),
            corrected_p_trainings=float(p_over),
            claimed=_side((p, p_over), Bound(each.advantage, each.low, each.high)) > 0,
        )
        for each, p, p_over in zip(family, corrected, over, strict=True)
    ]


def _corrected_where_known(p: Array) -> Array:
    """Holm's correction for the whole family; pairs with too few seeds count, but have no p."""
    corrected = stats.holm(np.where(np.isnan(p), 1.0, p))
    return np.where(np.isnan(p), np.nan, corrected)
