"""What each method costs to serve while the gallery is backfilled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.analysis import suite_records
from bench.analysis.costs import MethodCosts, method_costs
from bench.analysis.suite_records import EVERYTHING, Choice
from bench.evaluation import records
from bench.report.table import Cell, Column, Table

MOMENTS = (0.0, 0.5, 1.0)
COLUMNS = (
    Column("method"),
    Column("encodings per query at 0 / 50 / 100 %"),
    Column("searches per query at 0 / 50 / 100 %"),
    Column("searched at 50 %"),
    Column("bought per query at 50 %", 0, -1),
    *(Column(f"ms per query {moment:.0%}", 2, -1) for moment in MOMENTS),
    Column("of it search 50%", 3, -1),
    Column("bytes per item", 0, -1),
    Column("s to fit", 2, -1),
    Column("pairs to fit", 0, -1),
)
CAPTION = (
    "Means over seeds, no claim is made. A query is embedded (estimated from the median images per "
    "second of all these models of one side, whose architecture is the same), searched in flat "
    "FAISS indexes of {items:,} items, one query at a time, and waits for the items that are "
    "embedded anew on demand. Bytes: the most that is stored for an item during the backfill, at "
    "four a number. A method that trains its model is not fitted."
)


def cost_tables(results: Path, suite: str, choice: Choice = EVERYTHING) -> list[Table]:
    """Make a table of costs for each scenario whose records have any."""
    notes = [records.read_note(path) for path in suite_records.suite_paths(results, suite, choice)]
    return [
        cost_table(dataset, scenario, found)
        for (dataset, scenario), found in method_costs(notes).items()
    ]


def cost_table(dataset: str, scenario: str, found: dict[str, MethodCosts]) -> Table:
    """Make the table of one scenario, the cheapest query first."""
    ordered = sorted(found.items(), key=lambda each: (each[1].mean_milliseconds, each[0]))
    return Table(
        title=f"Cost of serving in {scenario} on {dataset}",
        columns=COLUMNS,
        rows=tuple(_row(method, costs) for method, costs in ordered),
        caption=CAPTION.format(items=ordered[0][1].one.items),
    )


def _row(method: str, costs: MethodCosts) -> tuple[Cell, ...]:
    one, places = costs.one, [costs.at(moment) for moment in MOMENTS]
    middle = places[1]

    def each(values: Sequence[Any], number: Callable[[Any], int]) -> Cell:
        return Cell(" / ".join(str(number(values[place])) for place in places))

    return (
        Cell(method),
        each(one.encoders, len),
        each(one.searches, int),
        Cell(one.searched[middle]),
        Cell(float(one.purchases[middle])),
        *(Cell(costs.milliseconds[place]) for place in places),
        Cell(costs.search_ms[middle]),
        Cell(float(one.bytes_per_item)),
        Cell(costs.fit_seconds),
        Cell(float(one.fit_pairs)),
    )
