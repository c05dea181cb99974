"""One self-contained page, and every table and figure as a file beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis import stats
from bench.analysis.costs import MethodCosts, method_costs
from bench.analysis.quantities import ALPHA
from bench.analysis.rankings import SuiteRanking, rankings
from bench.analysis.scenarios import Scenario
from bench.analysis.suite_records import EVERYTHING, Choice, suite_key, suite_paths
from bench.errors import command
from bench.evaluation import flips
from bench.evaluation.records import read_note
from bench.report import figures
from bench.report.cached import key_of, scenarios_of
from bench.report.chains import chain_tables
from bench.report.compare import ORIGIN, Origin, origin_of
from bench.report.costs import cost_table
from bench.report.orders import order_comparisons, order_sentences, order_tables
from bench.report.rendering import rendered
from bench.report.table import Table, slug, table_stem
from bench.report.tables import (
    architecture_table,
    comparison_table,
    curve_table,
    difference_tables,
    ranking_tables,
    scenario_table,
)
from bench.report.verdict import scenario_verdict, suite_verdict
from bench.storage.files import lock, unfinished
from bench.storage.results import Cell as StoredCell
from bench.storage.results import flips_path, lock_path, report_folder
from bench.storage.verified import seal_folder


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
    differences: list[Table]
    curves: list[tuple[figures.Figure, Table]]
    trade_off: figures.Figure
    serving: figures.Figure | None
    costs: Table | None
    comparisons: list[Table]
    galleries: list[Gallery]
    lost: list[str]

    @property
    def tables(self) -> list[Table]:
        """Every table of this section."""
        costs = [] if self.costs is None else [self.costs]
        curves = [table for _, table in self.curves]
        return [self.table, *self.differences, *costs, *curves, *self.comparisons]

    @property
    def figures(self) -> list[figures.Figure]:
        """Every figure of this section."""
        serving = [] if self.serving is None else [self.serving]
        return [*(figure for figure, _ in self.curves), self.trade_off, *serving]


@dataclass(frozen=True)
class Report:
    """Everything that a suite's page shows."""

    suite: str
    key: str
    chosen: str
    verdict: list[str]
    sections: list[Section]
    ranking_tables: list[Table]
    further: list[tuple[str, str, list[Table]]]
    """Sections with tables alone: anchor, title, tables."""
    rank_figures: list[figures.Figure]
    throughput: figures.Figure
    architectures: Table
    provenance: list[tuple[str, str]]
    settings: str
    origin: Origin

    @property
    def tables(self) -> list[Table]:
        """Every table of the report."""
        found = [table for section in self.sections for table in section.tables]
        return [*found, *self.common_tables]

    @property
    def common_tables(self) -> list[Table]:
        """Those that belong to no single scenario's section."""
        further = [table for *_, tables in self.further for table in tables]
        return [*self.ranking_tables, *further, self.architectures]

    @property
    def figures(self) -> list[figures.Figure]:
        """Every figure of the report."""
        found = [figure for section in self.sections for figure in section.figures]
        return [*found, *self.rank_figures, self.throughput]


def write_report(
    results: Path,
    suite: str,
    choice: Choice = EVERYTHING,
    columns: Sequence[str] | None = None,
    against: str | None = None,
) -> Path:
    """Write the report of a suite, or of some of its runs, and return its `report.html`.

    One process writes it at a time: a folder cannot be replaced in one step.
    """
    report = make_report(results, suite, choice, against)
    folder = report_folder(results, suite, choice.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(lock_path(results, f"report-{suite}")), unfinished(folder) as space:
        made = space / "made"
        made.mkdir()
        _write_files(report, made, columns)
        (made / "report.html").write_text(render(report), encoding="utf-8")
        seal_folder(made, report.key)
        if os.path.lexists(folder):
            os.replace(folder, space / "former")
        os.replace(made, folder)
    return folder / "report.html"


def make_report(
    results: Path, suite: str, choice: Choice = EVERYTHING, against: str | None = None
) -> Report:
    """Work a suite's records out into all that its page shows.

    Differences are `against` a method, by default the best of each scenario.
    """
    key, paths = suite_key(results, suite, choice), suite_paths(results, suite, choice)
    scenarios = scenarios_of(results, suite, key, choice)
    differences = difference_tables(scenarios, against)
    notes = [read_note(path) for path in paths]
    metadata, costs = pd.DataFrame(note.content() for note in notes), method_costs(notes)
    ranked = rankings(scenarios)
    style = figures.looks([str(method) for method in metadata["method"].unique()])
    return Report(
        suite=suite,
        key=key_of(key, against),
        chosen=choice.name,
        verdict=[
            *suite_verdict(scenarios, ranked),
            *order_sentences(order_comparisons(results, suite, choice)),
        ],
        sections=[
            _section(
                results,
                suite,
                scenario,
                style,
                differences,
                costs.get((scenario.dataset, scenario.name)),
            )
            for scenario in scenarios
        ],
        ranking_tables=ranking_tables(scenarios),
        further=[
            ("chains", "Chains of upgrades", chain_tables(results, suite, choice)),
            ("orders", "Backfill orders", order_tables(results, suite, choice)),
        ],
        rank_figures=_rank_figures(ranked, style),
        throughput=figures.throughput(scenarios, style),
        architectures=architecture_table(scenarios),
        provenance=list(_provenance(metadata)),
        settings=_settings(metadata),
        origin=origin_of(map(read_note, paths)),
    )


def render(report: Report) -> str:
    """Render the page."""
    return rendered(
        "report.html",
        report=report,
        again=command("report", "--suite", report.suite),
        alpha=ALPHA,
        least_seeds=stats.LEAST_SEEDS,
    )


def _section(
    results: Path,
    suite: str,
    scenario: Scenario,
    style: dict[str, figures.Look],
    differences: Sequence[Table],
    costs: dict[str, MethodCosts] | None,
) -> Section:
    place = f" in {scenario.name} on {scenario.dataset}"
    return Section(
        anchor=slug(f"{scenario.dataset}-{scenario.name}"),
        scenario=scenario,
        verdict=scenario_verdict(scenario),
        table=scenario_table(scenario),
        differences=[table for table in differences if table.title.endswith(place)],
        curves=[
            (figures.curve(scenario, name, style), curve_table(scenario, name))
            for name in ("mAP", "NFR_at_1")
        ],
        trade_off=figures.trade_off(scenario, style),
        serving=figures.serving(scenario, costs or {}, style),
        costs=cost_table(scenario.dataset, scenario.name, costs) if costs else None,
        comparisons=[
            comparison_table(scenario, quantity)
            for quantity in scenario.quantities
            if quantity.test and scenario.comparisons[quantity.key]
        ],
        galleries=list(_galleries(results, suite, scenario)),
        lost=[
            f"{method}, seed {seed}"
            for method, seed, record in _runs(results, suite, scenario)
            if not flips_path(record).is_file()
        ],
    )


def _galleries(results: Path, suite: str, scenario: Scenario) -> Iterator[Gallery]:
    """Find each method's examples of negative flips, of its first seed that has some."""
    found = set[str]()
    for method, seed, record in _runs(results, suite, scenario):
        path = flips_path(record)
        if method not in found and path.is_file():
            found.add(method)
            yield Gallery(method, seed, flips.read(path, read_note(record).key))


def _runs(results: Path, suite: str, scenario: Scenario) -> Iterator[tuple[str, int, Path]]:
    """Yield method, seed and records of each run of a scenario."""
    for method in scenario.methods:
        for seed in scenario.seeds[method]:
            cell = StoredCell(suite, scenario.dataset, scenario.name, method, seed)
            yield method, seed, cell.record_path(results)


def _rank_figures(
    ranked: Sequence[SuiteRanking], style: dict[str, figures.Look]
) -> list[figures.Figure]:
    return [figures.critical_difference(each, style) for each in ranked]


def _provenance(metadata: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Yield what the records say about their origin, each with all values that occur."""
    notes = metadata.to_dict("records")

    def listed(values: Iterator[Any]) -> str:
        return ", ".join(sorted({str(value) for value in values if value is not None}))

    yield "runs", str(len(notes))
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


def _write_files(report: Report, folder: Path, columns: Sequence[str] | None) -> None:
    (folder / "tables").mkdir()
    (folder / "tables" / ORIGIN).write_text(json.dumps(report.origin, indent=1), encoding="utf-8")
    for section in report.sections:
        place = folder / "tables" / table_stem(section.table)
        _write_table(section.table, place, section.table.only(columns))
        for table in section.tables[1:]:
            _write_table(table, place, table)
    for table in report.common_tables:
        _write_table(table, folder / "tables", table)
    (folder / "figures").mkdir()
    for figure in report.figures:
        stem = folder / "figures" / figure.name
        stem.with_name(stem.name + ".svg").write_text(figure.svg(), encoding="utf-8")
        stem.with_name(stem.name + ".png").write_bytes(figure.png())


def _write_table(table: Table, folder: Path, for_latex: Table) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = table_stem(table)
    for suffix, text in (
        (".csv", table.csv()),
        (".md", table.markdown()),
        (".tex", for_latex.latex()),
    ):
        (folder / f"{stem}{suffix}").write_text(text, encoding="utf-8")
