"""Per-query rows of one cell → its curve and scalars, the numbers that every output shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.evaluation import metrics
from bench.evaluation.metrics import SUCCESS_AT
from bench.evaluation.records import ON_FIRST

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CellRecords:
    """The records of one cell as arrays over shares [S] and queries [Q]."""

    queries: NDArray[np.str_]
    groups: NDArray[np.str_]  # [Q]; each query its own where the records name none
    shares: Array
    ap: Array  # [S, Q]
    old_ap: Array  # [Q]
    success: dict[int, NDArray[np.bool_]]  # k → [S, Q]
    old_success: dict[int, NDArray[np.bool_]]  # k → [Q]


def arrays(rows: pd.DataFrame) -> CellRecords:
    """Lay the rows of one cell out as arrays; queries in sorted order, shares ascending."""
    old = rows[rows["system"] == "old"].sort_values("query")
    refreshed = rows[rows["system"] == "refreshed"].sort_values(["share", "query"])
    shares = np.unique(refreshed["share"].to_numpy(np.float64))
    shape = (len(shares), len(old))
    names = {k: f"success_at_{k}" for k in SUCCESS_AT}
    return CellRecords(
        queries=old["query"].to_numpy(np.str_),
        groups=old["group" if "group" in old else "query"].to_numpy(np.str_),
        shares=shares,
        ap=refreshed["AP"].to_numpy(np.float64).reshape(shape),
        old_ap=old["AP"].to_numpy(np.float64),
        success={k: refreshed[name].to_numpy(bool).reshape(shape) for k, name in names.items()},
        old_success={k: old[name].to_numpy(bool) for k, name in names.items()},
    )


def chain_matrix(rows: pd.DataFrame) -> Array:
    """M_ij [3, 3] of a cell in a chain of upgrades: queries of generation i, gallery of j ≤ i.

    The upper triangle is NaN.
    """
    refreshed = rows[rows["system"] == "refreshed"].groupby("share")["AP"].mean()
    one, two_on_one, three_on_one = (rows["AP"][rows["system"] == name].mean() for name in ON_FIRST)
    two = rows["AP"][rows["system"] == "old"].mean()
    return np.array(
        [
            [one, np.nan, np.nan],
            [two_on_one, two, np.nan],
            [three_on_one, refreshed.loc[0.0], refreshed.loc[1.0]],
        ]
    )


def curve(cell: CellRecords) -> dict[str, Array]:
    """Curves over the shares [S]: mAP, NFR@K and PFR@K."""
    curves = {"mAP": cell.ap.mean(1)}
    for k in SUCCESS_AT:
        old, now = cell.old_success[k], cell.success[k]
        curves[f"NFR_at_{k}"] = metrics.negative_flip_rate(old, now)
        curves[f"PFR_at_{k}"] = metrics.positive_flip_rate(old, now)
    return curves


def scalars(cell: CellRecords) -> dict[str, float]:
    """Scalars of one cell under the names of the metric definitions."""
    curves = curve(cell)
    found = {
        "M_old_old": float(cell.old_ap.mean()),
        "M_new_old": float(curves["mAP"][0]),
        "M_new_new": float(curves["mAP"][-1]),
    }
    for name in ("mAP", *(f"NFR_at_{k}" for k in SUCCESS_AT)):
        found[f"AUC_{name}"] = float(metrics.area(cell.shares, curves[name]))
    return found
