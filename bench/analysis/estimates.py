"""Means of every method with their intervals: seeds and groups of queries are what is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.analysis import stats
from bench.analysis.limits import Bound, direction
from bench.analysis.quantities import CURVES, flip_keys
from bench.analysis.rates import rate_interval, wider, with_width
from bench.analysis.scenario_cells import ScenarioCells
from bench.evaluation import metrics
from bench.evaluation.records import REFERENCE_METHOD

Array = NDArray[np.float64]
_OF_REFERENCE = ("update_gain", "P_1")  # divided by what the reference gains


@dataclass(frozen=True)
class Estimates:
    """Means over seeds with 95 % bounds, one per method: [M], or [M, B] for curves."""

    value: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class AllEstimates:
    """Every quantity [M] and curve [M, B], and the methods whose ratios have no safe divisor."""

    scalars: dict[str, Estimates]
    curves: dict[str, Estimates]
    without_ratio: tuple[str, ...]


def estimate(cells: ScenarioCells) -> AllEstimates:
    """Estimate every quantity and curve, methods with the same seeds at once.

    Rates are bounded exactly as well, so that few flips, or none, have an interval. A ratio whose
    divisor M(*,*) − M(o,o) may be 0 is not given.
    """
    bounds: dict[str, Any] = {}
    for seeds in dict.fromkeys(cells.seeds.values()):
        methods = [method for method in cells.methods if cells.seeds[method] == seeds]
        bounds.update(zip(methods, _bounds(cells, methods, seeds), strict=True))
    stacked = np.stack([bounds[method] for method in cells.methods])  # [M, 3, K]
    keys = [quantity.key for quantity in cells.quantities]
    scalars = {key: Estimates(*stacked[:, :, place].T) for place, key in enumerate(keys)}
    curves = {}
    for position, name in enumerate(CURVES):
        start = len(keys) + position * len(cells.shares)
        part = stacked[:, :, start : start + len(cells.shares)]
        curves[name] = _within_unit(Estimates(*part.transpose(1, 0, 2)))
    for key in keys:
        if _is_mean(key):
            scalars[key] = _within_unit(scalars[key])
    divisors = [direction(Bound(*map(float, each[:, -1]))) for each in stacked]
    unsafe = np.array([side == 0 for side in divisors]) & ~np.isnan(stacked[:, 0, -1])
    for key in _OF_REFERENCE:
        parts = (scalars[key].value, scalars[key].low, scalars[key].high)
        scalars[key] = Estimates(*(np.where(unsafe, np.nan, part) for part in parts))
    named = tuple(m for m, without in zip(cells.methods, unsafe, strict=True) if without)
    return AllEstimates(scalars, curves, named)


def _is_mean(key: str) -> bool:
    return key.startswith(("M_", "NFR_", "AUC_"))


def _bounds(cells: ScenarioCells, methods: Sequence[str], seeds: tuple[int, ...]) -> Array:
    """Estimate, low and high of scalars, curves and divisor, side by side: [M, 3, K]."""
    columns = [cells.stacked(method, seeds) for method in methods]
    has_reference = set(seeds) <= set(cells.seeds.get(REFERENCE_METHOD, ()))
    if has_reference:
        final = [cells.values[REFERENCE_METHOD, seed].curves["mAP"][:, -1:] for seed in seeds]
        columns.append(np.stack(final))

    def statistic(means: Array) -> Array:
        reference = means[..., -1:] if has_reference else np.full_like(means[..., -1:], np.nan)
        own = means[..., : means.shape[-1] - has_reference]
        own = own.reshape(*own.shape[:-1], len(methods), -1)
        found = _derived(cells, own, reference)
        return found.reshape(*found.shape[:-2], -1)

    found = stats.hierarchical_interval(
        np.concatenate(columns, axis=2),
        cells.generator("intervals"),
        statistic,
        groups=cells.groups,
    )
    stacked = np.stack([found.estimate, found.low, found.high])
    stacked = stacked.reshape(3, len(methods), -1).transpose(1, 0, 2)
    for place, values in enumerate(columns[: len(methods)]):
        stacked[place] = _exact(cells, values, stacked[place], found.covers_seeds)
    return stacked


def _exact(cells: ScenarioCells, values: Array, bounds: Array, covers_seeds: bool) -> Array:
    """Bound rates, and means without spread, of one method [S, Q, ...] as outcomes: [3, K]."""
    per_query = _derived(cells, values, np.full((*values.shape[:2], 1), np.nan)[..., 0]).mean(0)
    keys = [quantity.key for quantity in cells.quantities]
    keys += [f"M_{name}" if name == "mAP" else name for name in CURVES for _ in cells.shares]
    found = bounds.copy()
    for is_rate in (False, True):
        of = [k for k, key in enumerate(keys) if _is_mean(key) and ("NFR" in key) == is_rate]
        value, low, high = bounds[:, of]
        part = stats.Interval(value, low, high, 0.95, covers_seeds)
        outcomes = per_query[:, of].clip(0, 1)
        exact = (
            wider(part, rate_interval(outcomes, cells.groups))
            if is_rate
            else with_width(part, outcomes, cells.groups)
        )
        found[:, of] = [exact.estimate, exact.low, exact.high]
    return found


def _derived(cells: ScenarioCells, means: Array, reference: Array) -> Array:
    """Scalars, curves and divisor of means [..., M, 1 + 3B] and M(*,*) [..., 1]: [..., M, K]."""
    count = len(cells.shares)
    old, curves = means[..., 0], means[..., 1:]
    ap, nfr = curves[..., :count], curves[..., count : 2 * count]
    first, last = ap[..., 0], ap[..., -1]
    reference = np.broadcast_to(reference, old.shape)
    up, comp = metrics.p_up(last, reference), metrics.p_comp(first, old, reference)
    found = {
        "M_old_old": old,
        "M_new_old": first,
        "M_new_new": last,
        "AUC_mAP": metrics.area(cells.shares, ap),
        **dict(zip(flip_keys(cells.shares), np.moveaxis(nfr, -1, 0), strict=True)),
        "AUC_NFR_at_1": metrics.area(cells.shares, nfr),
        "compatibility_tax": metrics.compatibility_tax(last, reference),
        "update_gain": metrics.update_gain(first, old, reference),
        "P_1": metrics.p_1(up, comp),
    }
    scalars = np.stack([found[quantity.key] for quantity in cells.quantities], axis=-1)
    return np.concatenate([scalars, curves, (reference - old)[..., None]], axis=-1)


def _within_unit(estimates: Estimates) -> Estimates:
    """Cut the bounds of a mean or a share to [0, 1], where it must lie."""
    return Estimates(estimates.value, estimates.low.clip(0, 1), estimates.high.clip(0, 1))
