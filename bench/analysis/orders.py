"""Backfill orders of one suite: what each changes against the first one, method by method.

Both orders walk the same models, queries and seeds, so that what is compared are pairs; the unit
that is sampled is the group of queries, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis import stats
from bench.analysis.cells import CellRecords, arrays
from bench.analysis.quantities import ALPHA, Quantity
from bench.evaluation import metrics
from bench.evaluation.orders import ORDERS
from bench.seeds import derive_seed
from bench.storage.metadata import RunMetadata

Array = NDArray[np.float64]
QUANTITIES = (
    Quantity("AUC_mAP", "AUC mAP", 1),
    Quantity("AUC_NFR_at_1", "AUC NFR@1", -1),
    Quantity("share_to_gain", "95 % at", -1),
)


@dataclass(frozen=True)
class Change:
    """One quantity under an order, and its difference to the first order with 95 % bounds.

    NaN where nothing can be told of a difference: for the first order itself, for a share of the
    gain where some resample gains nothing, and where every resample differs by the same.
    `claimed`: the difference stands.
    """

    value: float
    difference: float = nan
    low: float = nan
    high: float = nan
    p: float = nan
    corrected_p: float = nan
    claimed: bool = False


@dataclass(frozen=True)
class OrderLine:
    """One method walked in one order: a change of each of `QUANTITIES`, by its key.

    `reads_queries`: the order reads the gallery, and the gallery may hold the queries.
    """

    method: str
    order: str
    changes: dict[str, Change]
    reads_queries: bool
    reads_truth: bool


@dataclass(frozen=True)
class OrderComparison:
    """All orders of one scenario on one dataset against the first of them, `reference`."""

    dataset: str
    scenario: str
    reference: str
    seeds: int
    queries: int
    groups: int
    lines: tuple[OrderLine, ...]

    @property
    def tested(self) -> tuple[OrderLine, ...]:
        """Lines that are compared with the first order: oracles are bounds and no rivals."""
        return tuple(
            line for line in self.lines if line.order != self.reference and not line.reads_truth
        )


def compare_orders(
    read: Mapping[str, pd.DataFrame], notes: Sequence[RunMetadata]
) -> list[OrderComparison]:
    """Compare the orders of a suite's records in every (dataset, scenario).

    `read` holds the rows of each order as `suite_records.read_suite` gives them, the first order
    first; `notes` are the metadata of the cells. Nothing is compared where there is one order.
    """
    places = dict.fromkeys((note.dataset, note.scenario) for note in notes)
    return [
        _compare(read, [note for note in notes if (note.dataset, note.scenario) == place])
        for place in (places if len(read) > 1 else ())
    ]


def _compare(read: Mapping[str, pd.DataFrame], notes: Sequence[RunMetadata]) -> OrderComparison:
    reference, dataset, scenario = next(iter(read)), notes[0].dataset, notes[0].scenario
    cells = {order: _cells(rows, dataset, scenario) for order, rows in read.items()}
    seeds = {
        method: sorted(note.seed for note in notes if note.method == method)
        for method in sorted({note.method for note in notes})
    }
    # Unknown in records that do not say it: then the warning stands.
    searched = any(note.queries_in_gallery != 0 for note in notes)
    lines: list[OrderLine] = []
    for method in seeds:
        generator = np.random.default_rng(derive_seed("orders", dataset, scenario, method))
        of_method = {
            order: [found[method, seed] for seed in seeds[method]] for order, found in cells.items()
        }
        for order, changes in _changes(of_method, generator):
            entry = ORDERS.get(order)
            lines.append(
                OrderLine(
                    method,
                    order,
                    changes,
                    reads_queries=bool(entry and entry.reads_gallery and searched),
                    reads_truth=bool(entry and entry.reads_truth),
                )
            )
    one = next(iter(cells[reference].values()))
    found = OrderComparison(
        dataset=dataset,
        scenario=scenario,
        reference=reference,
        seeds=max(map(len, seeds.values())),
        queries=len(one.queries),
        groups=len(np.unique(one.groups)),
        lines=tuple(lines),
    )
    return _judged(found, {method: len(each) for method, each in seeds.items()})


def _cells(rows: pd.DataFrame, dataset: str, scenario: str) -> dict[tuple[str, int], CellRecords]:
    """Lay out the cells of one scenario, by method and seed."""
    here = rows[(rows["dataset"] == dataset) & (rows["scenario"] == scenario)]
    return {
        (str(method), int(seed)): arrays(cell)
        for (method, seed), cell in here.groupby(["method", "seed"])
    }


# --------------------------------------------------------------------------------- one method


def _changes(
    cells: Mapping[str, Sequence[CellRecords]], generator: np.random.Generator
) -> Iterator[tuple[str, dict[str, Change]]]:
    """Yield what each order of one method comes to, cells by order and seed."""
    (first, reference), *others = ((order, _columns(each)) for order, each in cells.items())
    one = cells[first][0]
    shares, groups = one.shares, np.unique(one.groups, return_inverse=True)[1]
    values = _quantities(reference.mean(1), shares).mean(0)
    yield first, {each.key: Change(float(v)) for each, v in zip(QUANTITIES, values, strict=True)}
    for order, columns in others:
        values = _quantities(columns.mean(1), shares).mean(0)
        bounds = stats.hierarchical_interval(
            np.concatenate([columns, reference], axis=2),
            generator,
            lambda means: _difference(means, shares),
            groups=groups,
        )
        p = _p(columns, reference, shares, groups, generator)
        yield (
            order,
            {
                each.key: _change(
                    values[i], bounds.estimate[i], bounds.low[i], bounds.high[i], p[i]
                )
                for i, each in enumerate(QUANTITIES)
            },
        )


def _columns(cells: Sequence[CellRecords]) -> Array:
    """AP in the old system, areas of AP and of flips, AP at every share: [S, Q, 3 + B]."""
    return np.stack(
        [
            np.column_stack(
                [
                    cell.old_ap,
                    metrics.area(cell.shares, cell.ap.T),
                    metrics.area(cell.shares, _flips(cell).T),
                    cell.ap.T,
                ]
            )
            for cell in cells
        ]
    )


def _flips(cell: CellRecords) -> Array:
    """Whether each query, right at rank 1 in the old system, is wrong at each share: [B, Q]."""
    return (cell.old_success[1] & ~cell.success[1]).astype(np.float64)


def _quantities(means: Array, shares: Array) -> Array:
    """Quantities [..., 3] of means over queries of the columns [..., 3 + B]."""
    share = metrics.cost_to_gain(shares, means[..., 3:], means[..., 0])
    return np.stack([means[..., 1], means[..., 2], share], axis=-1)


def _difference(means: Array, shares: Array) -> Array:
    """Quantities [..., 3] of one order minus those of another, columns side by side."""
    one, other = np.split(means, 2, axis=-1)
    return _quantities(one, shares) - _quantities(other, shares)


def _p(
    columns: Array,
    reference: Array,
    shares: Array,
    groups: NDArray[np.int64],
    generator: np.random.Generator,
) -> Array:
    """Uncorrected two-sided p-values [3] by exchanging the two orders in whole groups of queries.

    The areas are sums over queries, the share of the gain is not: its curves are averaged anew at
    each exchange.
    """
    seeds, queries, count = columns.shape
    middle = ((columns + reference) / 2).mean(1)
    half = stats.group_sums(((columns - reference) / 2).transpose(1, 0, 2), groups) / queries
    units = half.reshape(len(half), -1)
    found = _difference(_side_by_side(columns.mean(1), reference.mean(1)), shares).mean(0)
    extreme = np.zeros(len(QUANTITIES))
    block = max(1, (1 << 22) // units.shape[1])
    for start in range(0, stats.RESAMPLES, block):
        number = min(block, stats.RESAMPLES - start)
        signs = generator.integers(0, 2, (number, len(units))) * 2.0 - 1
        moved = (signs @ units).reshape(number, seeds, count)
        other = _difference(_side_by_side(middle + moved, middle - moved), shares).mean(1)
        # Equal sums may differ in their last bits; a tie counts as extreme.
        extreme += (np.abs(other) >= np.abs(found) - 1e-12).sum(0)
    return (extreme + 1) / (stats.RESAMPLES + 1)


def _side_by_side(one: Array, other: Array) -> Array:
    return np.concatenate([one, other], axis=-1)


def _change(value: float, difference: float, low: float, high: float, p: float) -> Change:
    """Leave the difference out where some resample gains nothing, or all differ by the same."""
    if np.isnan([difference, low, high]).any() or low == high:
        return Change(float(value))
    return Change(float(value), float(difference), float(low), float(high), float(p))


# ------------------------------------------------------------------------------------- claims


def _judged(comparison: OrderComparison, seeds: Mapping[str, int]) -> OrderComparison:
    """Correct the p-values of each quantity over all tested lines, and say what stands.

    Nothing is claimed about an order that reads the queries.
    """
    tested = {(line.method, line.order) for line in comparison.tested}
    lines = [
        line
        if (line.method, line.order) in tested
        else replace(line, changes={k: replace(c, p=nan) for k, c in line.changes.items()})
        for line in comparison.lines
    ]
    for quantity in QUANTITIES:
        family = [i for i, line in enumerate(lines) if not np.isnan(line.changes[quantity.key].p)]
        corrected = stats.holm([lines[i].changes[quantity.key].p for i in family])
        for i, p in zip(family, corrected, strict=True):
            line, change = lines[i], lines[i].changes[quantity.key]
            sure = change.low > 0 or change.high < 0 or seeds[line.method] < stats.LEAST_SEEDS
            judged = replace(
                change,
                corrected_p=float(p),
                claimed=bool(p <= ALPHA and sure and not line.reads_queries),
            )
            lines[i] = replace(line, changes={**line.changes, quantity.key: judged})
    return replace(comparison, lines=tuple(lines))
