"""How much the backfill order matters: one table per scenario, method by order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bench import metrics, records, summary
from bench.report.table import Cell, Column, Table

COLUMNS = (
    Column("method"),
    Column("order"),
    Column("AUC mAP", better=1),
    Column("AUC NFR@1", better=-1),
    Column("largest NFR@1", better=-1),
    Column("95 % at", better=-1),
)
CAPTION = (
    "Means over {seeds} seed(s). «95 % at» is the share of the gallery that has "
    "to be backfilled before mAP has risen by 95 % of M(n,n) − M(o,o); a dash where nothing is "
    "gained. The oracle knows the right answers and bounds what an order can do. No claim is made."
)


def order_tables(results: Path, suite: str) -> list[Table]:
    """Compare the backfill orders of a suite's records; no table where there is one order only."""
    notes = [records.read_note(path) for path in records.suite_paths(results, suite)]
    orders = list(dict.fromkeys(name for note in notes for name in note["settings"]["orders"]))
    if len(orders) < 2:
        return []
    read = {order: records.read_suite(results, suite, order)[0] for order in orders}
    places = dict.fromkeys((note["dataset"], note["scenario"]) for note in notes)
    return [_table(read, dataset, scenario) for dataset, scenario in places]


def _table(read: dict[str, pd.DataFrame], dataset: str, scenario: str) -> Table:
    lines: list[tuple[str, str, list[list[float]]]] = []
    for order, rows in read.items():
        chosen = rows[(rows["dataset"] == dataset) & (rows["scenario"] == scenario)]
        for method, cells in chosen.groupby("method"):
            values = [_values(cell) for _, cell in cells.groupby("seed")]
            lines.append((str(method), order, values))
    lines.sort(key=lambda line: line[0])
    seeds = max(len(values) for _, _, values in lines)
    return Table(
        title=f"Backfill orders in {scenario} on {dataset}",
        columns=COLUMNS,
        rows=tuple((Cell(method), Cell(order), *_means(values)) for method, order, values in lines),
        caption=CAPTION.format(seeds=seeds),
    )


def _values(cell: pd.DataFrame) -> list[float]:
    """AUC_mAP, AUC_NFR@1, largest NFR@1 and share for 95 % of the gain of one cell."""
    arrays = summary.arrays(cell)
    curves, scalars = summary.curve(arrays), summary.scalars(arrays)
    return [
        scalars["AUC_mAP"],
        scalars["AUC_NFR_at_1"],
        float(curves["NFR_at_1"].max()),
        metrics.cost_to_gain(arrays.shares, curves["mAP"], scalars["M_old_old"]),
    ]


def _means(values: Sequence[list[float]]) -> tuple[Cell, ...]:
    return tuple(Cell(float(mean)) for mean in np.mean(values, axis=0))
