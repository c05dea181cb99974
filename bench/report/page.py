"""One self-contained page, and every table and figure as a file beside it."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench import flips, stats
from bench.records import read_note, suite_key, suite_paths
from bench.report import figures
from bench.report.chains import chain_tables
from bench.report.kept import scenarios_of
from bench.report.orders import order_tables
from bench.report.scenarios import ALPHA, Scenario
from bench.report.table import Table
from bench.report.tables import (
    SuiteRanking,
    comparison_table,
    curve_table,
    ranking_tables,
    rankings,
    scenario_table,
)
from bench.report.verdict import scenario_verdict, suite_verdict
from bench.store import unfinished


@dataclass(frozen=True)
class Gallery:
    """Negative flips of one method in one scenario."""

    method: str
    seed: int
    flips: flips.Flips


@dataclass(frozen=True)
class Section:
    """What the page shows of one scenario."""

    anchor: str
    scenario: Scenario
    verdict: list[str]
    table: Table
    curves: list[tuple[figures.Figure, Table]]
    trade_off: figures.Figure
    comparisons: list[Table]
    galleries: list[Gallery]

    @property
    def tables(self) -> list[Table]:
        """Every table of this section."""
        return [self.table, *(table for _, table in self.curves), *self.comparisons]

    @property
    def figures(self) -> list[figures.Figure]:
        """Every figure of this section."""
        return [*(figure for figure, _ in self.curves), self.trade_off]


@dataclass(frozen=True)
class Report:
    """Everything that a suite's page shows."""

    suite: str
    verdict: list[str]
    sections: list[Section]
    ranking_tables: list[Table]
    further_tables: list[Table]
    rank_figures: list[figures.Figure]
    throughput: figures.Figure
    provenance: list[tuple[str, str]]
    settings: str

    @property
    def tables(self) -> list[Table]:
        """Every table of the report."""
        found = [table for section in self.sections for table in section.tables]
        return [*found, *self.ranking_tables, *self.further_tables]

    @property
    def figures(self) -> list[figures.Figure]:
        """Every figure of the report."""
        found = [figure for section in self.sections for figure in section.figures]
        return [*found, *self.rank_figures, self.throughput]


def write_report(results: Path, suite: str) -> Path:
    """Write `results/reports/SUITE/` anew and return the path of its `report.html`.

    One process writes it at a time: a folder cannot be replaced in one step.
    """
    report = make_report(results, suite)
    folder = results / "reports" / suite
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(results / "cache" / f"report-{suite}.lock"), unfinished(folder) as space:
        made = space / "made"
        made.mkdir()
        _write_files(report, made)
        (made / "report.html").write_text(render(report), encoding="utf-8")
        if folder.exists():
            os.replace(folder, space / "former")
        os.replace(made, folder)
    return folder / "report.html"


def make_report(results: Path, suite: str) -> Report:
    """Work a suite's records out into all that its page shows."""
    scenarios = scenarios_of(results, suite, suite_key(results, suite))
    metadata = pd.DataFrame(read_note(path) for path in suite_paths(results, suite))
    ranked = rankings(scenarios)
    style = figures.looks([str(method) for method in metadata["method"].unique()])
    return Report(
        suite=suite,
        verdict=suite_verdict(scenarios, ranked),
        sections=[_section(results, suite, scenario, style) for scenario in scenarios],
        ranking_tables=ranking_tables(scenarios),
        further_tables=[*chain_tables(results, suite), *order_tables(results, suite)],
        rank_figures=_rank_figures(ranked, style),
        throughput=figures.throughput(scenarios, style),
        provenance=list(_provenance(metadata)),
        settings=_settings(metadata),
    )


def render(report: Report) -> str:
    """Render the page."""
    environment = Environment(
        loader=PackageLoader("bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = lambda image: (
        f"data:image/png;base64,{base64.b64encode(image).decode()}"
    )
    environment.filters["fragment"] = lambda item: Markup(
        item.html() if isinstance(item, Table) else item.inline()
    )
    return environment.get_template("report.html").render(
        report=report,
        alpha=ALPHA,
        least_seeds=stats.LEAST_SEEDS,
        light=list(enumerate(figures.LIGHT)),
        dark=list(enumerate(figures.DARK)),
    )


def _section(
    results: Path, suite: str, scenario: Scenario, style: dict[str, figures.Look]
) -> Section:
    return Section(
        anchor=_slug(f"{scenario.dataset}-{scenario.name}"),
        scenario=scenario,
        verdict=scenario_verdict(scenario),
        table=scenario_table(scenario),
        curves=[
            (figures.curve(scenario, name, style), curve_table(scenario, name))
            for name in ("mAP", "NFR_at_1")
        ],
        trade_off=figures.trade_off(scenario, style),
        comparisons=[
            comparison_table(scenario, quantity)
            for quantity in scenario.quantities
            if quantity.test and scenario.comparisons[quantity.key]
        ],
        galleries=list(_galleries(results, suite, scenario)),
    )


def _galleries(results: Path, suite: str, scenario: Scenario) -> Iterator[Gallery]:
    """Find each method's examples of negative flips, of its first seed that has some."""
    place = results / "records" / suite / scenario.dataset / scenario.name
    for method in scenario.methods:
        for seed in scenario.seeds[method]:
            path = flips.path_beside(place / method / f"seed-{seed}.parquet")
            if path.is_file():
                yield Gallery(method, seed, flips.read(path))
                break


def _rank_figures(
    ranked: Sequence[SuiteRanking], style: dict[str, figures.Look]
) -> list[figures.Figure]:
    return [figures.critical_difference(each, style) for each in ranked]


def _provenance(metadata: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield what the records say about their origin, each with all values that occur."""
    notes = metadata.to_dict("records")

    def listed(values: Iterator[Any]) -> str:
        return ", ".join(sorted({str(value) for value in values if value is not None}))

    yield "cells", str(len(notes))
    for name in ("dataset", "dataset_revision", "metric"):
        yield name.replace("_", " "), listed(note.get(name) for note in notes)
    for name in ("git_revision", "python", "platform", "processor", "device", "cores", "threads"):
        yield name.replace("_", " "), listed(note["provenance"].get(name) for note in notes)
    packages = [note["provenance"].get("packages", {}) for note in notes]
    for name in sorted({name for each in packages for name in each}):
        yield name, listed(each.get(name) for each in packages)


def _settings(metadata: pd.DataFrame) -> str:
    """Write each cell's settings as JSON, by cell."""
    settings = {
        f"{note['dataset']}/{note['scenario']}/{note['method']}/seed-{note['seed']}": {
            "key": note.get("key"),
            **note["settings"],
        }
        for note in metadata.to_dict("records")
    }
    return json.dumps(settings, indent=1, default=str)


def _write_files(report: Report, folder: Path) -> None:
    (folder / "tables").mkdir()
    (folder / "figures").mkdir()
    for table in report.tables:
        stem = folder / "tables" / table_stem(table)
        for suffix, text in (
            (".csv", table.csv()),
            (".md", table.markdown()),
            (".tex", table.latex()),
        ):
            stem.with_name(stem.name + suffix).write_text(text, encoding="utf-8")
    for figure in report.figures:
        stem = folder / "figures" / figure.name
        stem.with_name(stem.name + ".svg").write_text(figure.svg(), encoding="utf-8")
        stem.with_name(stem.name + ".png").write_bytes(figure.png())


def table_stem(table: Table) -> str:
    """Name the files of a table after its title."""
    return _slug(table.title)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")
