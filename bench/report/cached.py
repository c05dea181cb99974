"""What a suite's records say, worked out once and kept with the other results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from bench.analysis.suite_records import EVERYTHING, Choice, left_out, read_suite, suite_key
from bench.report.table import Screen, Table
from bench.storage.digest import digest, source_digest
from bench.storage.store import Store

if TYPE_CHECKING:
    from bench.analysis.scenarios import Scenario

BENCH = Path(__file__).parent.parent
SOURCES = ("analysis", "report", "evaluation")
FILE = "summary.json"


@cache
def scenarios_of(
    results: Path, suite: str, key: str, choice: Choice = EVERYTHING
) -> list[Scenario]:
    """Summarise the records of a suite, once per process for the same `records.suite_key`."""
    from bench.analysis.scenarios import summarise

    return summarise(*read_suite(results, suite, choice=choice))


@dataclass(frozen=True)
class Summary:
    """What some runs of a suite say: the last screen of a command, and its tables in full.

    `left_out` says what of a dataset no record speaks of.
    """

    screen: Screen
    tables: list[Table]
    left_out: list[str]


def key_of(records: str, against: str | None = None) -> str:
    """Name what is made of the records with this key, by the code there is now.

    Differences in it are `against` a method.
    """
    sources = source_digest(path for name in SOURCES for path in (BENCH / name).rglob("*.py"))
    return digest([records, sources, against])


def summary(
    results: Path, suite: str, choice: Choice = EVERYTHING, against: str | None = None
) -> Summary:
    """Summarise the records of a suite; tables are one per scenario, then those of differences.

    Chains, orders and architectures come behind. Differences are `against` a method, by default the
    best of each scenario. Raises BenchError when the suite has no records, or none of that method.
    """
    content = suite_key(results, suite, choice)

    def make(folder: Path) -> dict[str, Any]:
        from bench.report.chains import chain_tables
        from bench.report.costs import cost_tables
        from bench.report.orders import order_comparisons, order_sentences, order_tables
        from bench.report.screen import screen
        from bench.report.tables import architecture_table, difference_tables, scenario_table

        scenarios = scenarios_of(results, suite, content, choice)
        tables = [
            *map(scenario_table, scenarios),
            *difference_tables(scenarios, against),
            *cost_tables(results, suite, choice),
            *chain_tables(results, suite, choice),
            *order_tables(results, suite, choice),
            architecture_table(scenarios),
        ]
        further = order_sentences(order_comparisons(results, suite, choice))
        made = Summary(screen(scenarios, further), tables, left_out(results, suite, choice))
        (folder / FILE).write_text(json.dumps(_SUMMARY.dump_python(made)))
        return {}

    place = Store(results).ensure("tables", key_of(content, against), make)
    return _SUMMARY.validate_python(json.loads((place / FILE).read_text()))


_SUMMARY = TypeAdapter(Summary)


def scenario_tables(
    results: Path, suite: str, choice: Choice = EVERYTHING, against: str | None = None
) -> list[Table]:
    """The tables of a suite's scenarios, of differences, chains, orders and architectures."""
    return summary(results, suite, choice, against).tables
