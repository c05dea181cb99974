"""How many seeds and groups of queries would tell methods apart, from the records at hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from bench.analysis.quantities import ALPHA, Quantity
from bench.analysis.scenario_cells import ScenarioCells
from bench.analysis.stats import LEAST_SEEDS, effective_groups, group_sums
from bench.errors import BenchError

Array = NDArray[np.float64]
MOST_SEEDS, MOST_TIMES = 200, 1000
FAR = 30  # beyond it noncentral t is not worked out exactly


@dataclass(frozen=True)
class Components:
    """What the mean difference of one pair varies by, with the seeds and groups at hand.

    Variances of the mean: `training` of one seed, `groups` of these groups, `both` of one seed's
    own behaviour in these groups. `number` counts groups of equal size that bear as much.
    """

    difference: float
    training: float
    groups: float
    both: float
    number: float

    def power(
        self, seeds: int, times: float, family: int, difference: float, methods: int = 2
    ) -> float:
        """Chance that a true difference is claimed with so many seeds and times the groups.

        A claim needs all: the test over groups and that over trainings at Holm's first step, and
        the interval over seeds and groups. By noncentral t with Satterthwaite's degrees of freedom.
        """
        groups, both, number = self.groups / times, self.both / times, self.number * times
        test = _chance(difference, groups + both / seeds, number - 1, ALPHA / family)
        of_seeds, of_groups = (self.training + both) / seeds, groups + both / seeds
        variance = of_seeds + groups
        if seeds < LEAST_SEEDS or number <= 1 or variance <= 0:
            return test
        wide = (stats.t.ppf(1 - ALPHA / 2, [seeds - 1, number - 1])) ** 2
        critical = np.sqrt(wide @ [of_seeds, of_groups] / variance)
        freedom = variance**2 / (of_seeds**2 / (seeds - 1) + groups**2 / (number - 1))
        centre = difference / np.sqrt(variance)
        interval = _exceeds(critical, freedom, centre)
        pooled = variance**2 / (
            of_seeds**2 / (seeds - 1) / (methods - 1) + groups**2 / (number - 1)
        )
        trainings = _exceeds(stats.t.ppf(1 - ALPHA / family / 2, pooled), pooled, centre)
        return min(test, interval, trainings)


@dataclass(frozen=True)
class Needs:
    """What would tell two methods apart: seeds with these groups, groups with these seeds.

    None where no number does, within 200 seeds and 1,000 times the groups. `together` are seeds and
    groups if both are multiplied alike.
    """

    first: str
    second: str
    difference: float
    power: float
    seeds: int | None
    groups: int | None
    together: tuple[int, int] | None
    advice: str


def components(sums: Array, sizes: Array) -> Components:
    """Variance components of differences summed over groups [S, G] of `sizes` [G].

    Two-way random effects of seeds and groups, by moments. Raises BenchError with one seed, which
    says nothing about training, or one group.
    """
    seeds, total, number = len(sums), sizes.sum(), effective_groups(sizes)
    if seeds < 2 or number <= 1:
        raise BenchError(
            f"power got {seeds} seed(s) and {len(sizes)} group(s); expected records of 2 of each "
            "at least, to see how both vary"
        )
    means = sums.sum(1) / total
    departures = (sums - means[:, None] * sizes) / total  # [S, G]
    common = departures.mean(0)
    inflation = number / (number - 1)
    both = ((departures - common) ** 2).sum() / (seeds - 1) * inflation
    groups = (common**2).sum() * inflation - both / seeds
    training = means.var(ddof=1) - both
    return Components(float(means.mean()), max(training, 0.0), max(groups, 0.0), both, number)


def needs(
    cells: ScenarioCells, quantity: Quantity, power: float = 0.8, difference: float | None = None
) -> list[Needs]:
    """State for every pair of methods what would tell it apart in a quantity.

    The true difference is taken to be the one that was measured, or `difference`.
    """
    sums = {
        (method, seed): group_sums(cell.of(quantity, cells.shares), cells.groups)
        for (method, seed), cell in cells.values.items()
    }
    pairs = []
    for one, two in combinations(cells.methods, 2):
        common = [seed for seed in cells.seeds[one] if seed in cells.seeds[two]]
        if len(common) > 1:
            pairs.append((one, two, common))
    found = []
    for one, two, common in pairs:
        found_sums = np.stack([sums[one, seed] - sums[two, seed] for seed in common])
        parts = components(found_sums, cells.sizes)
        better = (one, two) if parts.difference >= 0 else (two, one)
        true = abs(parts.difference) if difference is None else difference
        found.append(_needs(better, parts, true, len(common), cells, len(pairs), power))
    return sorted(found, key=lambda each: -each.power)


def _needs(
    pair: tuple[str, str],
    parts: Components,
    difference: float,
    seeds: int,
    cells: ScenarioCells,
    family: int,
    power: float,
) -> Needs:
    here, methods = len(cells.sizes), len(cells.methods)

    def enough(more_seeds: int, groups: int) -> bool:
        return parts.power(more_seeds, groups / here, family, difference, methods) >= power

    def scaled(times: float) -> tuple[int, int]:
        return max(LEAST_SEEDS, math.ceil(seeds * times)), math.ceil(here * times)

    ladder = np.unique(np.geomspace(2, MOST_TIMES * here, 120).astype(int)).tolist()
    these = max(seeds, LEAST_SEEDS)
    more_seeds = next((n for n in range(LEAST_SEEDS, MOST_SEEDS + 1) if enough(n, here)), None)
    groups = next((n for n in ladder if enough(these, n)), None)
    steps = (scaled(times) for times in np.geomspace(1, MOST_SEEDS, 120).tolist())
    together = next((both for both in steps if enough(*both)), None)
    return Needs(
        *pair,
        difference=difference,
        power=parts.power(seeds, 1.0, family, difference, methods),
        seeds=more_seeds,
        groups=groups,
        together=together,
        advice=_advice((seeds, here), enough(seeds, here), more_seeds, groups, together),
    )


def _advice(
    at_hand: tuple[int, int],
    enough: bool,
    seeds: int | None,
    groups: int | None,
    both: tuple[int, int] | None,
) -> str:
    """State which of both to add: what has to be multiplied by less."""
    if enough:
        return "enough of both"
    times = {
        name: needed / now
        for name, needed, now in zip(("seeds", "groups"), (seeds, groups), at_hand, strict=True)
        if needed is not None and needed > now
    }
    if times:
        return min(times, key=lambda name: times[name])
    return "both" if both else "never significant"


def _chance(difference: float, variance: float, freedom: float, alpha: float) -> float:
    if freedom <= 0:
        return 0.0
    if variance <= 0:
        return float(difference > 0)
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    return _exceeds(critical, freedom, difference / np.sqrt(variance))


def _exceeds(critical: float, freedom: float, centre: float) -> float:
    """Chance that noncentral t exceeds a critical value; far out by its normal approximation."""
    chance = float(1 - special.nctdtr(freedom, centre, critical)) if centre < FAR else math.nan
    if math.isnan(chance):
        spread = math.sqrt(1 + critical**2 / (2 * freedom))
        chance = float(stats.norm.cdf((centre - critical * (1 - 1 / (4 * freedom))) / spread))
    return chance
