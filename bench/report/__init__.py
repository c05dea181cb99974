"""Stored records → tables, figures and the report, without training or a tracking server."""

from __future__ import annotations

from pathlib import Path


def build(results: Path, suite: str) -> Path:
    """Make `results/reports/SUITE/` of a suite's records and return the path of `report.html`.

    Raises BenchError when there are no records, or none that can be compared.
    """
    from bench.report.page import write_report

    return write_report(results, suite)
