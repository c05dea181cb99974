"""The cells of one scenario side by side: the same queries in every method and seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.cells import CellRecords, arrays
from bench.analysis.quantities import CURVES, Quantity, flip_keys, quantities
from bench.errors import BenchError
from bench.evaluation import metrics
from bench.seeds import derive_seed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PerQuery:
    """One cell per query: AP in the old system [Q], and each curve [Q, B]."""

    old: Array
    curves: dict[str, Array]

    def columns(self) -> Array:
        """Everything side by side [Q, 1 + 3B]."""
        return np.column_stack([self.old, *(self.curves[name] for name in CURVES)])

    def of(self, quantity: Quantity, shares: Array) -> Array:
        """Values [Q] of a tested quantity, turned so that more is better."""
        ap, flips = self.curves["mAP"], self.curves["NFR_at_1"]
        found = {
            "M_new_old": ap[:, 0],
            "M_new_new": ap[:, -1],
            "AUC_mAP": metrics.area(shares, ap),
            "AUC_NFR_at_1": metrics.area(shares, flips),
            **dict(zip(flip_keys(shares), flips.T, strict=True)),
        }[quantity.key]
        return np.asarray(quantity.better * found)


class ScenarioCells:
    """The cells of one scenario on one dataset; `groups` [Q] numbers the group of each query.

    Raises BenchError where cells have other shares, other queries or other groups.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        self.dataset, self.name = rows["dataset"].iloc[0], rows["scenario"].iloc[0]
        self.order = next(iter(rows.loc[rows["system"] == "refreshed", "order"].unique()), "")
        cells = {
            (str(method), int(seed)): arrays(cell)
            for (method, seed), cell in rows.groupby(["method", "seed"])
        }
        self._check(cells)
        first = next(iter(cells.values()))
        self.shares, self.queries = first.shares, len(first.queries)
        self.groups = np.unique(first.groups, return_inverse=True)[1]
        self.sizes = np.bincount(self.groups).astype(np.float64)
        self.values = {place: _per_query(cell) for place, cell in cells.items()}
        self.methods = tuple(dict.fromkeys(method for method, _ in cells))
        self.seeds = {
            method: tuple(sorted(seed for name, seed in cells if name == method))
            for method in self.methods
        }
        self.quantities = quantities(self.shares)

    def _check(self, cells: dict[tuple[str, int], CellRecords]) -> None:
        """Refuse cells whose rows do not pair up, naming one (their settings agree already)."""
        place = f"scenario '{self.name}' on {self.dataset}"
        (first, reference), *others = cells.items()
        for (method, seed), cell in others:
            for part in ("shares", "queries", "groups"):
                if not np.array_equal(getattr(cell, part), getattr(reference, part)):
                    raise BenchError(
                        f"{place} has cells with different {part}: {method}/seed-{seed} is not "
                        f"like {first[0]}/seed-{first[1]}; delete the outdated records, or run "
                        "the suite again"
                    )

    @property
    def tested(self) -> list[Quantity]:
        """Quantities by which methods are compared."""
        return [quantity for quantity in self.quantities if quantity.test]

    def stacked(self, method: str, seeds: tuple[int, ...]) -> Array:
        """Everything that is known per query of one method [S, Q, 1 + 3B]."""
        return np.stack([self.values[method, seed].columns() for seed in seeds])

    def generator(self, purpose: str) -> np.random.Generator:
        """Random numbers that depend on the scenario alone, not on what else is in the suite."""
        return np.random.default_rng(derive_seed("statistics", purpose, self.dataset, self.name))


def _per_query(cell: CellRecords) -> PerQuery:
    curves = {"mAP": cell.ap.T}
    for k in cell.success:
        old, now = cell.old_success[k], cell.success[k]
        # A rate over one query is whether that query flipped.
        curves[f"NFR_at_{k}"] = metrics.negative_flip_rate(old[:, None], now[..., None]).T
    return PerQuery(cell.old_ap, curves)
