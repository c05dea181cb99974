"""A suite's tables, worked out once for the same records and kept with the other results."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from bench.records import read_suite, suite_key
from bench.report.table import Table
from bench.store import Store, digest, source_digest

if TYPE_CHECKING:
    from bench.report.scenarios import Scenario

BENCH = Path(__file__).parent.parent
SOURCES = (
    *("stats.py", "metrics.py", "summary.py"),
    *("report/scenarios.py", "report/table.py", "report/tables.py", "report/orders.py"),
    "report/chains.py",
)
_TABLES = TypeAdapter(list[Table])


@cache
def scenarios_of(results: Path, suite: str, key: str) -> list[Scenario]:
    """Summarise the records of a suite, once per process for the same `records.suite_key`."""
    from bench.report.scenarios import summarise

    return summarise(*read_suite(results, suite))


def scenario_tables(results: Path, suite: str) -> list[Table]:
    """One table per scenario of a suite, and one of its backfill orders where there are several.

    Raises BenchError when the suite has no records.
    """
    sources = source_digest([BENCH / name for name in SOURCES])
    content = suite_key(results, suite)
    key = digest([content, sources])

    def make(folder: Path) -> dict[str, Any]:
        from bench.report.chains import chain_tables
        from bench.report.orders import order_tables
        from bench.report.tables import scenario_table

        scenarios = scenarios_of(results, suite, content)
        made = [
            *map(scenario_table, scenarios),
            *chain_tables(results, suite),
            *order_tables(results, suite),
        ]
        (folder / "tables.json").write_text(json.dumps(_TABLES.dump_python(made)))
        return {}

    place = Store(results).ensure("tables", key, make)
    return _TABLES.validate_python(json.loads((place / "tables.json").read_text()))
