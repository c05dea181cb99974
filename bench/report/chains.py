"""Chains of upgrades: how every generation of queries fares on every older gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from bench.analysis import suite_records
from bench.analysis.cells import chain_matrix
from bench.analysis.suite_records import EVERYTHING, Choice
from bench.evaluation import records
from bench.evaluation.metrics import chain_scalars
from bench.report.table import Cell, Column, Table

GENERATIONS = 3
PAIRS = [(i, j) for i in range(GENERATIONS) for j in range(i + 1)]
COLUMNS = (
    Column("method"),
    *(Column(f"M({i + 1},{j + 1})", better=1) for i, j in PAIRS),
    *(Column(name, better=1) for name in ("AC", "AM", "BC", "FC")),
)
CAPTION = (
    "Means over {seeds} seed(s). M(i,j): mAP of the queries of generation i on the gallery of "
    "generation j, none of it backfilled. AC: share of the pairs i > j with M(i,j) > M(j,j); AM: "
    "mean of all M(i,j); BC: what the last queries gain on older galleries; FC: what new queries "
    "gain or lose on the gallery before. Every method upgrades the same first model, and from then "
    "on its own. No claim is made."
)


def chain_tables(results: Path, suite: str, choice: Choice = EVERYTHING) -> list[Table]:
    """Make a table for each scenario of a suite that is a chain of upgrades."""
    notes = [records.read_note(path) for path in suite_records.suite_paths(results, suite, choice)]
    chains = dict.fromkeys(
        (note.dataset, note.scenario) for note in notes if note.settings.is_chain
    )
    if not chains:
        return []
    rows = suite_records.read_suite(results, suite, choice=choice)[0]
    return [_table(rows, dataset, scenario) for dataset, scenario in chains]


def _table(rows: pd.DataFrame, dataset: str, scenario: str) -> Table:
    chosen = rows[(rows["dataset"] == dataset) & (rows["scenario"] == scenario)]
    lines, seeds = [], 0
    for method, cells in chosen.groupby("method"):
        values = [chain_values(cell) for _, cell in cells.groupby("seed")]
        lines.append((Cell(str(method)), *(Cell(float(mean)) for mean in np.mean(values, axis=0))))
        seeds = max(seeds, len(values))
    am = [column.name for column in COLUMNS].index("AM")
    return Table(
        title=f"Three generations in {scenario} on {dataset}",
        columns=COLUMNS,
        rows=tuple(sorted(lines, key=lambda line: -float(line[am].value))),
        caption=CAPTION.format(seeds=seeds),
    )


def chain_values(cell: pd.DataFrame) -> list[float]:
    """M(i,j) of one cell's rows, then AC, AM, BC and FC."""
    matrix = chain_matrix(cell)
    return [*(float(matrix[pair]) for pair in PAIRS), *chain_scalars(matrix).values()]
