"""Per-query records → what is known about each scenario: estimates, intervals, comparisons.

Every table, figure and sentence of the report is made from these numbers and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import metrics, stats, summary
from bench.errors import BenchError
from bench.records import REFERENCE_METHOD
from bench.seeds import derive

Array = NDArray[np.float64]
ALPHA = 0.05
SHARES_IN_TABLES = (0.0, 0.2, 0.5, 1.0)
CURVES = ("mAP", "NFR_at_1", "NFR_at_5")


@dataclass(frozen=True)
class Quantity:
    """A number that a cell has: its key in MLflow, its label, and how methods are compared by it.

    `better` is +1 where more is better, −1 where less is, 0 where methods are not ranked.
    `test` is "sign-flip" or "McNemar", or empty where no claim is made.
    """

    key: str
    label: str
    better: int = 1
    test: str = ""


RATES = (
    Quantity("train_images_per_s", "train img/s"),
    Quantity("embed_images_per_s", "embed img/s"),
    Quantity("search_queries_per_s", "searches/s"),
    Quantity("backfill_images_per_s", "backfill img/s"),
)


# What a training step waits for, and the rate at which each would go alone.
LIMITS = {
    "reading images": "read_images_per_s",
    "augmenting them": "augment_images_per_s",
    "the model": "model_images_per_s",
}


def quantities(shares: Iterable[float]) -> tuple[Quantity, ...]:
    """Say what is derived from per-query records with these backfill shares."""
    shown = [share for share in SHARES_IN_TABLES if np.isclose(list(shares), share).any()]
    return (
        Quantity("M_old_old", "M(o,o)", 0),
        Quantity("M_new_old", "M(n,o)", 1, "sign-flip"),
        Quantity("M_new_new", "M(n,n)", 1, "sign-flip"),
        Quantity("AUC_mAP", "AUC mAP", 1, "sign-flip"),
        *(
            Quantity(f"NFR_at_1@{share:.0%}", f"NFR@1 {share:.0%}", -1, "McNemar")
            for share in shown
        ),
        Quantity("AUC_NFR_at_1", "AUC NFR@1", -1, "sign-flip"),
        Quantity("compatibility_tax", "tax", -1),
        Quantity("update_gain", "gain"),
        Quantity("P_1", "P_1"),
    )


@dataclass(frozen=True)
class Estimates:
    """Means over seeds with 95 % bounds, one per method: [M], or [M, B] for curves."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same queries and seeds; `first` has the better mean.

    `advantage` ≥ 0 is how much better it is, `low` and `high` bound it; `claimed` tells whether
    the difference stands: corrected p ≤ α and, with 3 seeds or more, a bound above 0.
    """

    first: str
    second: str
    seeds: int
    advantage: float
    low: float
    high: float
    p: float
    corrected_p: float
    effect: stats.Effect
    detectable: stats.Detectable
    claimed: bool


@dataclass(frozen=True)
class Scenario:
    """What the records say about one scenario on one dataset; methods by AUC mAP, best first.

    `limits` are images per second that each part of a training step would reach alone.
    """

    dataset: str
    name: str
    metric: str
    order: str
    queries: int
    shares: Array
    quantities: tuple[Quantity, ...]
    methods: tuple[str, ...]
    seeds: dict[str, tuple[int, ...]]
    estimates: dict[str, Estimates]
    curves: dict[str, Estimates]
    rates: dict[str, Array]
    devices: tuple[str, ...]
    limits: dict[str, float]
    comparisons: dict[str, list[Comparison]]
    notes: tuple[str, ...]

    @property
    def fewest_seeds(self) -> int:
        """Seeds of the method that has fewest."""
        return min(len(seeds) for seeds in self.seeds.values())

    def beaten(self, key: str, method: str) -> list[str]:
        """Methods that `method` beats in a quantity, by a difference that stands."""
        found = self.comparisons.get(key, [])
        return [each.second for each in found if each.first == method and each.claimed]

    def best(self, key: str) -> str | None:
        """Return the method that beats every other one in a quantity, if there is one."""
        others = len(self.methods) - 1
        winners = [m for m in self.methods if len(self.beaten(key, m)) == others > 0]
        return winners[0] if winners else None

    def value(self, key: str, method: str) -> float:
        """Mean of a quantity for a method."""
        return float(self.estimates[key].value[self.methods.index(method)])


def summarise(records: pd.DataFrame, metadata: pd.DataFrame) -> list[Scenario]:
    """Summarise every (dataset, scenario) of a suite's records, as `records.read_suite` has them.

    Raises BenchError where cells of one scenario have other shares or other queries.
    """
    return [
        _Scenario(rows, metadata[_is(metadata, dataset, name)]).summarise()
        for (dataset, name), rows in records.groupby(["dataset", "scenario"], sort=True)
    ]


def _is(metadata: pd.DataFrame, dataset: str, scenario: str) -> Any:
    return (metadata["dataset"] == dataset) & (metadata["scenario"] == scenario)


@dataclass(frozen=True)
class _Values:
    """One cell per query: AP in the old system [Q], and each curve [Q, B]."""

    old: Array
    curves: dict[str, Array]

    def columns(self) -> Array:
        """Everything side by side [Q, 1 + 3B]."""
        return np.column_stack([self.old, *(self.curves[name] for name in CURVES)])


class _Scenario:
    """Works one scenario out."""

    def __init__(self, rows: pd.DataFrame, metadata: pd.DataFrame) -> None:
        self.metadata = metadata
        self.dataset, self.name = rows["dataset"].iloc[0], rows["scenario"].iloc[0]
        self.order = next(iter(rows.loc[rows["system"] == "refreshed", "order"].unique()), "")
        cells = {
            (str(method), int(seed)): summary.arrays(cell)
            for (method, seed), cell in rows.groupby(["method", "seed"])
        }
        self._check(cells)
        first = next(iter(cells.values()))
        self.shares, self.queries = first.shares, len(first.queries)
        self.values = {place: _per_query(cell) for place, cell in cells.items()}
        self.methods = tuple(dict.fromkeys(method for method, _ in cells))
        self.seeds = {
            method: tuple(sorted(seed for name, seed in cells if name == method))
            for method in self.methods
        }
        self.quantities = quantities(self.shares)

    def _check(self, cells: dict[tuple[str, int], summary.CellRecords]) -> None:
        """Refuse cells whose rows do not pair up, naming one (their settings agree already)."""
        place = f"scenario '{self.name}' on {self.dataset}"
        (first, reference), *others = cells.items()
        for (method, seed), cell in others:
            for part in ("shares", "queries"):
                if not np.array_equal(getattr(cell, part), getattr(reference, part)):
                    raise BenchError(
                        f"{place} has cells with different {part}: {method}/seed-{seed} is not "
                        f"like {first[0]}/seed-{first[1]}; delete the outdated records, or run "
                        "the suite again"
                    )

    def summarise(self) -> Scenario:
        """Return all that is known."""
        estimates, curves = self._estimates()
        order = np.argsort(-estimates["AUC_mAP"].value, kind="stable")
        methods = tuple(self.methods[position] for position in order)
        notes = []
        if len(set(self.seeds.values())) > 1:
            listed = "; ".join(f"{m}: {', '.join(map(str, self.seeds[m]))}" for m in methods)
            notes.append(f"Seeds differ ({listed}); methods are compared on the seeds they share.")
        if REFERENCE_METHOD not in self.methods:
            notes.append(
                f"Tax, gain and P_1 need the method '{REFERENCE_METHOD}', which was not run."
            )
        if any("first_side" in settings for settings in self.metadata["settings"]):
            notes.append(
                "The last upgrade of a chain: each method replaces an old model of its own, and "
                "its flips are counted from what that one answers."
            )
        return Scenario(
            dataset=self.dataset,
            name=self.name,
            metric=str(self.metadata["metric"].iloc[0]),
            order=self.order,
            queries=self.queries,
            shares=self.shares,
            quantities=self.quantities,
            methods=methods,
            seeds=self.seeds,
            estimates={key: _reordered(each, order) for key, each in estimates.items()},
            curves={name: _reordered(each, order) for name, each in curves.items()},
            rates={rate.key: self._rate(rate.key)[order] for rate in RATES},
            devices=self._devices(),
            limits=self._limits(),
            comparisons=self._comparisons(),
            notes=tuple(notes),
        )

    def _generator(self, purpose: str) -> np.random.Generator:
        """Random numbers that depend on the scenario alone, not on what else is in the suite."""
        return np.random.default_rng(derive("statistics", purpose, self.dataset, self.name))

    # -------------------------------------------------------------------- estimates and curves

    def _estimates(self) -> tuple[dict[str, Estimates], dict[str, Estimates]]:
        """Estimate every quantity [M] and curve [M, B], methods with the same seeds at once."""
        bounds: dict[str, Any] = {}
        for seeds in dict.fromkeys(self.seeds.values()):
            methods = [method for method in self.methods if self.seeds[method] == seeds]
            bounds.update(zip(methods, self._bounds(methods, seeds), strict=True))
        stacked = np.stack([bounds[method] for method in self.methods])  # [M, 3, K]
        scalar_keys = [quantity.key for quantity in self.quantities]
        scalars = {
            key: Estimates(*stacked[:, :, position].T) for position, key in enumerate(scalar_keys)
        }
        curves = {}
        for position, name in enumerate(CURVES):
            start = len(scalar_keys) + position * len(self.shares)
            part = stacked[:, :, start : start + len(self.shares)]
            curves[name] = _within_unit(Estimates(*part.transpose(1, 0, 2)))
        for key in scalars:
            if key.startswith(("M_", "NFR_", "AUC_")):
                scalars[key] = _within_unit(scalars[key])
        return scalars, curves

    def _bounds(self, methods: Sequence[str], seeds: tuple[int, ...]) -> Array:
        """Estimate, low and high of scalars and curves, side by side: [M, 3, K]."""
        columns = [self._stacked(method, seeds) for method in methods]
        has_reference = set(seeds) <= set(self.seeds.get(REFERENCE_METHOD, ()))
        if has_reference:
            final = [self.values[REFERENCE_METHOD, seed].curves["mAP"][:, -1:] for seed in seeds]
            columns.append(np.stack(final))

        def statistic(means: Array) -> Array:
            reference = means[..., -1:] if has_reference else np.full_like(means[..., -1:], np.nan)
            own = means[..., : means.shape[-1] - has_reference]
            own = own.reshape(*own.shape[:-1], len(methods), -1)
            found = self._derived(own, reference)
            return found.reshape(*found.shape[:-2], -1)

        found = stats.hierarchical_interval(
            np.concatenate(columns, axis=2), self._generator("intervals"), statistic
        )
        stacked = np.stack([found.estimate, found.low, found.high])
        return stacked.reshape(3, len(methods), -1).transpose(1, 0, 2)

    def _stacked(self, method: str, seeds: tuple[int, ...]) -> Array:
        return np.stack([self.values[method, seed].columns() for seed in seeds])

    def _derived(self, means: Array, reference: Array) -> Array:
        """Scalars and curves of means [..., M, 1 + 3B] and M(*,*) [..., 1]: [..., M, K]."""
        count = len(self.shares)
        old, curves = means[..., 0], means[..., 1:]
        ap, nfr = curves[..., :count], curves[..., count : 2 * count]
        first, last = ap[..., 0], ap[..., -1]
        reference = np.broadcast_to(reference, old.shape)
        up, comp = metrics.p_up(last, reference), metrics.p_comp(first, old, reference)
        found = {
            "M_old_old": old,
            "M_new_old": first,
            "M_new_new": last,
            "AUC_mAP": metrics.area(self.shares, ap),
            **dict(zip(_nfr_keys(self.shares), np.moveaxis(nfr, -1, 0), strict=True)),
            "AUC_NFR_at_1": metrics.area(self.shares, nfr),
            "compatibility_tax": metrics.compatibility_tax(last, reference),
            "update_gain": metrics.update_gain(first, old, reference),
            "P_1": metrics.p_1(up, comp),
        }
        scalars = np.stack([found[quantity.key] for quantity in self.quantities], axis=-1)
        return np.concatenate([scalars, curves], axis=-1)

    # ----------------------------------------------------------------------------- comparisons

    def _comparisons(self) -> dict[str, list[Comparison]]:
        """Compare every pair that shares a seed, in every quantity that has a test."""
        tested = [quantity for quantity in self.quantities if quantity.test]
        groups: dict[tuple[int, ...], list[tuple[str, str]]] = {}
        for one, two in combinations(self.methods, 2):
            common = tuple(seed for seed in self.seeds[one] if seed in self.seeds[two])
            if common:
                groups.setdefault(common, []).append((one, two))
        family = sum(len(pairs) for pairs in groups.values())
        measured: dict[str, list[Comparison]] = {quantity.key: [] for quantity in tested}
        for seeds, pairs in groups.items():
            for key, found in self._measured(tested, seeds, pairs, family).items():
                measured[key] += found
        return {key: _judged(found) for key, found in measured.items()}

    def _measured(
        self,
        tested: Sequence[Quantity],
        seeds: tuple[int, ...],
        pairs: Sequence[tuple[str, str]],
        family: int,
    ) -> dict[str, list[Comparison]]:
        """Compare pairs on these seeds, one at a time: p-values are not yet corrected."""
        methods = list(dict.fromkeys(method for pair in pairs for method in pair))
        values = np.stack(
            [
                np.stack([self._tested(tested, method, seed) for method in methods], axis=1)
                for seed in seeds
            ]
        )  # [S, Q, M, T], more is better
        first, second = (np.array([methods.index(pair[i]) for pair in pairs]) for i in (0, 1))
        shape = (len(methods), len(tested))

        def difference(means: Array) -> Array:
            each = means.reshape(*means.shape[:-1], *shape)
            found = each[..., first, :] - each[..., second, :]
            return found.reshape(*found.shape[:-2], -1)

        bounds = stats.hierarchical_interval(
            values.reshape(*values.shape[:2], -1), self._generator("differences"), difference
        )
        estimate, low, high = (
            part.reshape(len(pairs), len(tested))
            for part in (bounds.estimate, bounds.low, bounds.high)
        )
        p = self._p_values(tested, values.sum(0), first, second, family)
        return {
            quantity.key: [
                _compared(
                    pair,
                    values[:, :, first[i], t] - values[:, :, second[i], t],
                    (float(estimate[i, t]), float(low[i, t]), float(high[i, t])),
                    float(p[i, t]),
                    family,
                )
                for i, pair in enumerate(pairs)
            ]
            for t, quantity in enumerate(tested)
        }

    def _tested(self, tested: Sequence[Quantity], method: str, seed: int) -> Array:
        """Values of the tested quantities in every query of one cell, more is better: [Q, T]."""
        curves = self.values[method, seed].curves
        nfr = dict(zip(_nfr_keys(self.shares), curves["NFR_at_1"].T, strict=True))
        found = {
            "M_new_old": curves["mAP"][:, 0],
            "M_new_new": curves["mAP"][:, -1],
            "AUC_mAP": metrics.area(self.shares, curves["mAP"]),
            "AUC_NFR_at_1": metrics.area(self.shares, curves["NFR_at_1"]),
            **nfr,
        }
        return np.stack([quantity.better * found[quantity.key] for quantity in tested], axis=1)

    def _p_values(
        self,
        tested: Sequence[Quantity],
        summed: Array,
        first: NDArray[np.int64],
        second: NDArray[np.int64],
        family: int,
    ) -> Array:
        """Uncorrected p-values [pairs, T] of values summed over seeds [Q, M, T]."""
        p = np.empty((len(first), len(tested)))
        flipped = [t for t, quantity in enumerate(tested) if quantity.test == "sign-flip"]
        columns = summed[:, :, flipped]
        differences = (columns[:, first] - columns[:, second]).reshape(len(summed), -1)
        # Enough resamples for the smallest p-value to survive Holm's correction.
        resamples = max(stats.RESAMPLES, int(2 * family / ALPHA))
        found = stats.sign_flip_p(differences, self._generator("tests"), resamples)
        p[:, flipped] = found.reshape(len(first), len(flipped))
        for t, quantity in enumerate(tested):
            if quantity.test == "McNemar":
                p[:, t] = stats.mcnemar_p(summed[:, first, t] - summed[:, second, t])
        return p

    # ----------------------------------------------------------------------------- circumstances

    def _rate(self, key: str) -> Array:
        """Mean over seeds of a throughput [M], NaN where it was not measured."""
        measured = {
            method: [rates.get(key, np.nan) for rates in cells["rates"]]
            for method, cells in self.metadata.groupby("method")
        }
        return np.array([float(np.mean(measured[method])) for method in self.methods])

    def _limits(self) -> dict[str, float]:
        """Median images per second of each part of a training step alone, the slowest first."""
        rates = {
            part: [cell[key] for cell in self.metadata["rates"] if key in cell]
            for part, key in LIMITS.items()
        }
        found = {part: float(np.median(values)) for part, values in rates.items() if values}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def _devices(self) -> tuple[str, ...]:
        """Describe the machines that the throughput was measured on."""
        found: dict[str, set[str]] = {}
        for stages in self.metadata["measured_on"]:
            for stage, each in stages.items():
                devices = f"{each['devices']} × " if each["devices"] > 1 else ""
                place = (
                    f"{devices}{each['device']} ({each['processor']}), {each['threads']} thread(s)"
                )
                found.setdefault(f"{place}, {each['precision']}", set()).add(stage)
        return tuple(f"{place} ({', '.join(sorted(found[place]))})" for place in sorted(found))


def _per_query(cell: summary.CellRecords) -> _Values:
    curves = {"mAP": cell.ap.T}
    for k in cell.success:
        old, now = cell.old_success[k], cell.success[k]
        # A rate over one query is whether that query flipped.
        curves[f"NFR_at_{k}"] = metrics.negative_flip_rate(old[:, None], now[..., None]).T
    return _Values(cell.old_ap, curves)


def _nfr_keys(shares: Array) -> list[str]:
    return [f"NFR_at_1@{share:.0%}" for share in shares]


def _compared(
    pair: tuple[str, str],
    advantage: Array,
    bounds: tuple[float, float, float],
    p: float,
    family: int,
) -> Comparison:
    """Compare a pair by the advantage [S, Q] of its first method, in the better one's favour."""
    estimate, low, high = bounds
    if estimate < 0:
        pair, advantage = pair[::-1], -advantage
        estimate, low, high = -estimate, -high, -low
    return Comparison(
        *pair,
        seeds=len(advantage),
        advantage=estimate,
        low=low,
        high=high,
        p=p,
        corrected_p=p,
        effect=stats.effects(advantage.mean(0))[0],
        detectable=_detectable(advantage, family),
        claimed=False,
    )


def _detectable(advantage: Array, family: int) -> stats.Detectable:
    """Smallest differences a claim finds: at Holm's first step over queries, at α over seeds."""
    return stats.Detectable(
        stats.minimum_detectable_difference(advantage, ALPHA / family).models_fixed,
        stats.minimum_detectable_difference(advantage, ALPHA).over_training,
    )


def _judged(family: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of a family and decide which differences stand."""
    corrected = stats.holm([each.p for each in family])
    return [
        replace(
            each,
            corrected_p=float(p),
            claimed=bool(p <= ALPHA and (each.low > 0 or each.seeds < stats.LEAST_SEEDS)),
        )
        for each, p in zip(family, corrected, strict=True)
    ]


def _within_unit(estimates: Estimates) -> Estimates:
    """Cut the bounds of a mean or a share to [0, 1], where it must lie."""
    return Estimates(estimates.value, estimates.low.clip(0, 1), estimates.high.clip(0, 1))


def _reordered(estimates: Estimates, order: NDArray[np.int64]) -> Estimates:
    return Estimates(estimates.value[order], estimates.low[order], estimates.high[order])
