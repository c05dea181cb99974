"""Stored records → tables, figures and the report, without training or a tracking server."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)


def build(
    results: Path,
    suite: str,
    scenarios: tuple[str, ...] | None = None,
    methods: tuple[str, ...] | None = None,
    columns: tuple[str, ...] | None = None,
    against: str | None = None,
) -> Path:
    """Make the report of a suite's records, or of some of them, and return its `report.html`.

    It is in `results/reports/SUITE/`, or in a folder beside it that is named after what was chosen;
    `columns` are those of the scenarios' LaTeX tables; differences are `against` a method, by
    default the best of each scenario. Raises BenchError when there are no records, none that can be
    compared, or no such column.
    """
    from bench.analysis.suite_records import Choice
    from bench.report.page import write_report

    return write_report(results, suite, Choice(scenarios, methods), columns, against)


def up_to_date(results: Path, suite: str, against: str | None = None) -> Path:
    """Return the path of a suite's `report.html`; make it where it is not of the present records.

    One whose files were altered is told of and made anew. Raises BenchError as `build` does.
    """
    from bench.analysis.suite_records import suite_key
    from bench.report.cached import key_of
    from bench.storage.results import report_folder
    from bench.storage.verified import seal_of

    folder = report_folder(results, suite)
    made_of, altered = seal_of(folder)
    if altered:
        logger.warning("%s was altered; the report is made anew", altered[0])
    elif made_of == key_of(suite_key(results, suite), against):
        return folder / "report.html"
    return build(results, suite, against=against)
