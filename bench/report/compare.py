"""Two results side by side: what differs, what beyond its interval, and what made them.

A side is a results folder, the records of one suite, a report, or a folder of tables (one per
scenario, as a report has them); results from another machine or of other code are such, and so are
`results/reference/default` and two variants of a suite in one folder.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from bench.analysis.suite_records import only_suite, suite_key, suite_paths
from bench.errors import BenchError
from bench.evaluation.records import read_note
from bench.report.cached import scenarios_of
from bench.report.table import Cell, Column, Table, table_stem
from bench.report.tables import DIFFERENCES, scenario_table
from bench.storage.digest import digest
from bench.storage.files import refuse_unreadable, unreadable
from bench.storage.metadata import RunMetadata
from bench.storage.results import suites_with_records
from bench.storage.store import refuse_other_version
from bench.storage.verified import SEAL, seal_of

ORIGIN = "origin.json"  # beside tables: what made them
LONGEST_LIST, LONGEST_VALUE = 12, 60
LONGEST_HEAD = 100_000  # characters of the line that names a table's columns
LEVELS = 3  # folders of a report above its tables
# What a run of its own method, scenario or dataset brings: where one side has no such run, that is
# named as lacking and is no difference.
OF_RUNS = ("code: method ", "data: ", "settings: ")
Origin = dict[str, list[str]]
_ORIGIN = TypeAdapter(Origin)


@dataclass(frozen=True)
class Side:
    """One of two results: its tables by scenario, indexed by method, and what made them."""

    name: str
    tables: dict[str, pd.DataFrame]
    origin: Origin = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """A number that both sides have and that is not the same; bounds are of the first, then second.

    `beyond` tells whether one of the values is outside the interval of the other.
    """

    scenario: str
    method: str
    quantity: str
    values: tuple[float, float]
    bounds: tuple[tuple[float, float], tuple[float, float]]

    @property
    def beyond(self) -> bool:
        """Whether one value is outside the interval of the other."""
        one, two = self.values
        (low, high), (other_low, other_high) = self.bounds
        return not low <= two <= high or not other_low <= one <= other_high

    @property
    def size(self) -> float:
        """How much more the second one has."""
        return self.values[1] - self.values[0]


@dataclass(frozen=True)
class Comparison:
    """What two results have in common, what differs, and what made them."""

    names: tuple[str, str]
    compared: int
    differences: tuple[Difference, ...]
    alone: tuple[str, ...]
    origins: tuple[Origin, Origin]

    @property
    def beyond(self) -> list[Difference]:
        """Differences beyond an interval, the largest first."""
        found = [each for each in self.differences if each.beyond]
        return sorted(found, key=lambda each: -abs(each.size))

    @property
    def within(self) -> list[Difference]:
        """Differences within both intervals, the largest first."""
        found = [each for each in self.differences if not each.beyond]
        return sorted(found, key=lambda each: -abs(each.size))

    def sentences(self) -> Iterator[str]:
        """State what differs beyond its interval and at all, what is missing, what made both."""
        total = f"{self.compared:,} numbers with an interval"
        if not self.differences:
            yield f"All {total} are the same."
        else:
            yield f"Outside the other's 95 % interval: {len(self.beyond):,} of {total}."
            yield f"Different: {len(self.differences):,} of {total}{self._largest()}."
        yield from self.alone
        yield from self._agreement()

    def _largest(self) -> str:
        if not self.within:
            return ""
        most = self.within[0]
        where = f"{most.quantity} of {most.method} in {most.scenario}"
        return f"; the largest within its interval is {where}, by {most.size:+.4f}"

    def _agreement(self) -> Iterator[str]:
        """State which groups of what made the results agree, and what differs in the others."""
        lacking = [name for name, made in zip(self.names, self.origins, strict=True) if not made]
        if lacking:
            yield (
                f"Whether code, packages and data agree is unknown: {' and '.join(lacking)} "
                f"says nothing about its origin ({ORIGIN})."
            )
            return
        one, two = self.origins
        groups: dict[str, list[str]] = {}
        for what in dict.fromkeys([*one, *two]):
            if (what in one and what in two) or not what.startswith(OF_RUNS):
                groups.setdefault(what.partition(":")[0], []).append(what)
        for group, names in groups.items():
            differing = [name for name in names if one.get(name) != two.get(name)]
            if not differing:
                yield f"{group.capitalize()}: the same."
                continue
            yield f"{group.capitalize()}: {len(differing)} of {len(names)} differ."
            for name in differing[:LONGEST_LIST]:
                told = (", ".join(made.get(name, ["–"])) for made in (one, two))
                yield f"  {name.partition(': ')[2]}: {' | '.join(map(_shortened, told))}"

    def table(self, differences: Sequence[Difference], title: str) -> Table:
        """List some differences with both values and intervals."""
        rows = [
            (
                *(Cell(text) for text in (each.scenario, each.method, each.quantity)),
                *(Cell(v, *bounds) for v, bounds in zip(each.values, each.bounds, strict=True)),
                Cell(f"{each.size:+.3f}"),
            )
            for each in differences
        ]
        names = ("scenario", "method", "quantity", "first", "second", "difference")
        columns = tuple(map(Column, names))
        caption = f"First: {self.names[0]}; second: {self.names[1]}. 95 % CI in brackets."
        return Table(title, columns, tuple(rows), caption)


def compare(
    one: str | Path,
    two: str | Path,
    results: Path = Path("results"),
    suite: str | None = None,
) -> Comparison:
    """Compare two results: folders, tables, or names of suites that have records in `results`.

    `suite` is the one that is meant in results folders; by default the only one there is. Raises
    BenchError for what is neither, and for two that have no scenario and method in common.
    """
    first, second = (read_side(str(each), results, suite) for each in (one, two))
    common = [name for name in first.tables if name in second.tables]
    found = list(_numbers(first, second, common))
    if not found:
        raise BenchError(
            f"{first.name} and {second.name} have nothing in common: "
            f"{_listed(first.tables)} vs. {_listed(second.tables)}"
        )
    return Comparison(
        (first.name, second.name),
        len(found),
        tuple(each for each in found if each.size != 0),
        (*_alone(first, second), *_alone(second, first)),
        (first.origin, second.origin),
    )


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no tables"


# --------------------------------------------------------------------------------- reading


def read_side(text: str, results: Path, suite: str | None = None) -> Side:
    """Read one side; raises BenchError for what is no results."""
    path = Path(text)
    if not path.exists():
        if text in suites_with_records(results):
            return _of_records(results, text, text)
        raise BenchError(
            f"{text} is no file or folder, and no suite with records in {results} has this name; "
            "give a results folder, a folder of tables, or the name of a suite"
        )
    _refuse_altered(path)
    if path.is_file():
        return Side(text, dict([_read_table(path)]), _read_origin(path.parent))
    if path.parent.name == "records" and suites_with_records(path.parent.parent):
        return _of_records(path.parent.parent, path.name, text)
    if suites_with_records(path):
        return _of_records(path, suite or only_suite(path), text)
    refuse_unreadable(path)
    tables = [each for each in sorted(path.rglob("*-on-*.csv")) if _is_scenario_table(each)]
    if not tables:
        raise BenchError(f"{path} holds neither records nor tables of scenarios (*-on-*.csv)")
    return Side(text, dict(map(_read_table, tables)), _read_origin(path))


def _of_records(results: Path, suite: str, name: str) -> Side:
    refuse_other_version(results)
    made = map(scenario_table, scenarios_of(results, suite, suite_key(results, suite)))
    tables = {table_stem(table): table.frame().set_index("method") for table in made}
    return Side(name, tables, origin_of(map(read_note, suite_paths(results, suite))))


def _refuse_altered(path: Path) -> None:
    """Refuse tables of a report that are no longer as it wrote them."""
    place = path.resolve()
    for folder in (place, *place.parents[:LEVELS]):
        for altered in seal_of(folder)[1]:
            if altered.exists() and not os.access(altered, os.R_OK):
                raise unreadable(altered)
            if altered.name == SEAL or altered.is_relative_to(place):
                raise BenchError(
                    f"{altered} was altered since the report was made; "
                    "make it again with `python -m bench report`"
                )


def _is_scenario_table(path: Path) -> bool:
    if path.name.startswith(DIFFERENCES.replace(" ", "-")):
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return "AUC mAP low" in file.readline(LONGEST_HEAD)


def _read_table(path: Path) -> tuple[str, pd.DataFrame]:
    """Read a table whose columns with bounds hold numbers, and each method once."""
    try:
        table = pd.read_csv(path).set_index("method", verify_integrity=True)
        for column in table.columns:
            if column.endswith((" low", " high")):
                for name in (column, column.rpartition(" ")[0]):
                    table[name] = table[name].astype(float)
        return path.stem, table
    except Exception as error:  # of a damaged file, pandas raises errors of many kinds
        reason = " ".join(str(error).split())
        raise BenchError(f"{path} is no table of a scenario ({reason[:200]})") from error


def _read_origin(folder: Path) -> Origin:
    for place in (folder, folder / "tables", folder.parent):
        if (place / ORIGIN).is_file():
            try:
                return _ORIGIN.validate_json((place / ORIGIN).read_bytes())
            except ValueError as error:
                raise BenchError(
                    f"{place / ORIGIN} is damaged; delete it, or make the tables again"
                ) from error
    return {}


def origin_of(notes: Iterable[RunMetadata]) -> Origin:
    """State what made some runs: code, packages, data, settings, machine; with all values."""
    found: dict[str, set[str]] = {}
    for note in notes:
        for what, value in _made_by(note):
            found.setdefault(what, set()).add(str(value))
    return {what: sorted(values) for what, values in sorted(found.items())}


def _made_by(note: RunMetadata) -> Iterator[tuple[str, Any]]:
    """What made one run, as `GROUP: name` and its value."""
    for stage, code in note.code.items():
        own = f"method {note.method}" if stage == "method" else stage
        yield f"code: {own}", code
    for package, version in note.provenance.packages.items():
        yield f"packages: {package}", version
    yield f"data: {note.dataset}, content", note.dataset_revision
    yield f"data: {note.dataset}, options and readers", note.dataset_key
    settings = note.settings
    for name in ("orders", "shares", "split"):
        yield f"settings: {name}", getattr(settings, name)
    yield f"settings: {note.method}", digest(settings.method)
    for age in ("old", "new"):
        for part in ("side", "recipe"):
            content = getattr(settings, f"{age}_{part}")
            yield f"settings: {age} {part} of {note.scenario}, {note.method}", digest(content)
    yield "settings: seeds", note.seed
    for name in ("git_revision", "python", "processor", "device", "threads"):
        yield f"machine: {name.replace('_', ' ')}", getattr(note.provenance, name)


# ------------------------------------------------------------------------------- comparing


def _numbers(one: Side, two: Side, scenarios: Iterable[str]) -> Iterator[Difference]:
    """Every number with bounds that both sides have."""
    for scenario in scenarios:
        first, second = one.tables[scenario], two.tables[scenario]
        for column in first.columns:
            bounds = [f"{column} low", f"{column} high"]
            if not all(name in side for name in (column, *bounds) for side in (first, second)):
                continue
            for method in first.index.intersection(second.index):
                values = [float(side.loc[method, column]) for side in (first, second)]
                found = [
                    (float(side.loc[method, bounds[0]]), float(side.loc[method, bounds[1]]))
                    for side in (first, second)
                ]
                if all(map(math.isfinite, (*values, *found[0], *found[1]))):
                    pair, limits = (values[0], values[1]), (found[0], found[1])
                    yield Difference(scenario, str(method), column, pair, limits)


def _alone(one: Side, two: Side) -> Iterator[str]:
    """State what only the first of two sides has."""
    for scenario, table in one.tables.items():
        if scenario not in two.tables:
            yield f"Only in {one.name}: {scenario}."
            continue
        methods = [str(name) for name in table.index if name not in two.tables[scenario].index]
        if methods:
            yield f"Only in {one.name}, {scenario}: {', '.join(methods)}."
