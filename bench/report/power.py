"""How many seeds and groups would tell methods apart: one table per scenario."""

from __future__ import annotations

import math
from pathlib import Path

from bench.analysis.power import Needs, needs
from bench.analysis.quantities import ALPHA
from bench.analysis.scenario_cells import ScenarioCells
from bench.analysis.suite_records import read_suite
from bench.errors import BenchError
from bench.report.table import Cell, Column, Table

COLUMNS = (
    Column("better"),
    Column("than"),
    Column("by", 4),
    Column("power now", 2, 1),
    Column("seeds needed", 0, -1),
    Column("groups needed", 0, -1),
    Column("or both"),
    Column("add"),
)


def power_tables(
    results: Path,
    suite: str,
    quantity: str = "AUC_mAP",
    power: float = 0.8,
    difference: float | None = None,
    against: str | None = None,
) -> list[Table]:
    """Make a table for each scenario of a suite: what would tell its methods apart.

    Raises BenchError for a quantity that has no test, a method without records, and records of one
    seed alone.
    """
    rows, _ = read_suite(results, suite)
    if against is not None and against not in set(rows["method"]):
        listed = ", ".join(sorted(set(rows["method"])))
        raise BenchError(f"--against {against}: no records of it; expected one of {listed}")
    scenarios = [
        ScenarioCells(part) for _, part in rows.groupby(["dataset", "scenario"], sort=False)
    ]
    return [_table(cells, quantity, power, difference, against) for cells in scenarios]


def _table(
    cells: ScenarioCells,
    name: str,
    power: float,
    difference: float | None,
    against: str | None,
) -> Table:
    known = {each.key: each for each in cells.tested}
    if name not in known:
        raise BenchError(f"--quantity {name} is not tested; expected one of {', '.join(known)}")
    found = needs(cells, known[name], power, difference)
    if not found:
        raise BenchError(
            f"scenario '{cells.name}' has no two methods with 2 seeds in common; run more seeds "
            "first, with --seeds"
        )
    chosen = [each for each in found if against in (None, each.first, each.second)]
    seeds = sorted({len(each) for each in cells.seeds.values()})
    shown = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    true = "the measured difference" if difference is None else f"a difference of {difference:g}"
    return Table(
        title=f"Sample size for significant differences in {known[name].label} in {cells.name} on "
        f"{cells.dataset}",
        columns=COLUMNS,
        rows=tuple(_row(each) for each in chosen),
        caption=(
            f"If {true} is the true one: the power with the {shown} seeds and "
            f"{len(cells.sizes):,} groups of queries at hand; seeds needed with these groups, "
            f"groups needed with these seeds, or both multiplied alike, for a power of {power:.0%} "
            f"at α = {ALPHA}, Holm's first step over {len(found)} pairs. A dash: no number is "
            "enough, since the other one limits. A measured difference is itself uncertain."
        ),
    )


def _row(each: Needs) -> tuple[Cell, ...]:
    both = "–" if each.together is None else f"{each.together[0]:,} × {each.together[1]:,}"
    numbers = [math.nan if n is None else float(n) for n in (each.seeds, each.groups)]
    return (
        Cell(each.first),
        Cell(each.second),
        Cell(each.difference),
        Cell(each.power),
        *map(Cell, numbers),
        Cell(both),
        Cell(each.advice),
    )
