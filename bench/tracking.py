"""When what is logged to MLflow; a tracking failure costs a warning, never a cell."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from bench import records
from bench.errors import shown
from bench.logbook import Logbook
from bench.plan import CellSpec
from bench.registry import dataset_label
from bench.runner import Outcome, Watcher

if TYPE_CHECKING:
    from rich.console import Console

    from bench.experiment import Experiment
    from bench.report.scenarios import Scenario
    from bench.tuning import Search


def tracking_uri(results: Path) -> str:
    """Where runs are logged: `MLFLOW_TRACKING_URI` when set, else a database in the folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(results / "mlflow.db")


def own_database(results: Path) -> Path | None:
    """The folder's own database; None where runs are logged elsewhere."""
    path = results / "mlflow.db"
    return path if tracking_uri(results) == sqlite_uri(path) else None


def sqlite_uri(path: Path) -> str:
    """Address of an SQLite database for MLflow."""
    return f"sqlite:///{path.resolve()}"


class Tracker:
    """Logs each cell when it ends and passes what it hears on to another watcher.

    After a first failure it warns once and logs no more: `broken`.
    """

    def __init__(self, results: Path, console: Console, watcher: Watcher | None = None) -> None:
        self.results, self.console, self.watcher = results, console, watcher
        self.uri = tracking_uri(results)
        self.logbook = Logbook(results, self.uri)
        self.experiments: dict[tuple[str, str], Experiment] = {}
        self.broken = False

    def begin(self, total: int) -> None:
        """Pass on."""
        if self.watcher:
            self.watcher.begin(total)

    def progress(self, label: str, stage: str, done: int, total: int) -> None:
        """Pass on."""
        if self.watcher:
            self.watcher.progress(label, stage, done, total)

    def finish(self, outcome: Outcome) -> None:
        """Pass on, then log the cell's records."""
        if self.watcher:
            self.watcher.finish(outcome)
        if isinstance(outcome.spec, CellSpec) and outcome.status != "failed":
            self.log(outcome.spec.cell.record_path(self.results))

    def log(self, path: Path) -> bool:
        """Log one cell's records and say whether they are in MLflow now."""

        def log() -> None:
            note = records.read_note(path)
            what = str(path.relative_to(self.results))
            if not self.logbook.holds(what, note["key"]):
                with self.logbook.entry(what, note["key"]):
                    self._experiment(note["suite"], note["dataset"]).log_cell(note, path)

        return self._attempt(log)

    def log_suite(self, suite: str, scenarios: list[Scenario], key: str, report: Path) -> bool:
        """Log what a suite's records say together, and the folder of its report."""

        def log() -> None:
            with self.logbook.entry(_comparison(suite), key):
                for dataset in dict.fromkeys(scenario.dataset for scenario in scenarios):
                    experiment = self._experiment(suite, dataset)
                    for scenario in scenarios:
                        if scenario.dataset == dataset:
                            experiment.log_summaries(scenario)
                    experiment.log_comparison(report, key)

        return self._attempt(log)

    def has_suite(self, suite: str, key: str) -> bool:
        """Tell whether the comparison of a suite's records is in MLflow as they are."""
        if self.logbook.holds(_comparison(suite), key):
            return True
        datasets = sorted(path.name for path in (self.results / "records" / suite).iterdir())
        found: list[bool] = []

        def look() -> None:
            found.extend(self._experiment(suite, one).has_comparison(key) for one in datasets)
            if all(found):
                with self.logbook.entry(_comparison(suite), key):
                    pass  # it was logged before

        return self._attempt(look) and all(found)

    def log_search(self, search: Search) -> bool:
        """Log the trials of one method's search; to send them later, tune again: all is cached."""

        def log() -> None:
            suite = search.suite
            self._experiment(suite.name, dataset_label(suite.dataset)).log_search(search)

        return self._attempt(log, "tuning again")

    def _experiment(self, suite: str, dataset: str) -> Experiment:
        from bench.experiment import Experiment, make_database

        database = own_database(self.results)
        if database is not None and not database.exists():
            make_database(database)
        if (suite, dataset) not in self.experiments:
            local = self.results / "artifacts" if self.uri.startswith("sqlite:") else None
            self.experiments[suite, dataset] = Experiment(self.uri, local, suite, dataset)
        return self.experiments[suite, dataset]

    def _attempt(self, action: Callable[[], None], again: str | None = None) -> bool:
        """Do something with MLflow, one process of this folder at a time.

        `again` is what sends the same later, by default `bench track`.
        """
        if self.broken:
            return False
        try:
            with FileLock(self.results / "cache" / "mlflow.lock"):
                action()
        except Exception as error:
            self.broken = True
            later = again or f"`python -m bench track --results {self.results}`"
            self.console.print(
                f"[yellow]warning:[/] MLflow at {shown(self.uri)} failed ({type(error).__name__}: "
                f"{next(iter(shown(str(error)).splitlines()), '')[:200]}); the records are kept, "
                f"{later} sends them later",
                soft_wrap=True,
            )
        return not self.broken


def _comparison(suite: str) -> str:
    return f"comparison of {suite}"
