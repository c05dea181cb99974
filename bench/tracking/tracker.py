"""When what is logged to MLflow; a tracking failure costs a warning, never a cell."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from bench.analysis.suite_records import suite_summary
from bench.errors import BenchError, command, shown
from bench.evaluation import records
from bench.output.texts import told
from bench.pipeline.outcomes import Outcome, Watcher
from bench.pipeline.specs import CellSpec
from bench.storage.files import lock
from bench.storage.results import (
    artifacts_folder,
    dataset_label,
    lock_path,
    records_folder,
)
from bench.tracking.connection import (
    SQLITE,
    UNTOLD,
    attended,
    explained,
    own_database,
    reach,
    tracking_uri,
)
from bench.tracking.logged import Logbook

if TYPE_CHECKING:
    from rich.console import Console

    from bench.analysis.scenarios import Scenario
    from bench.pipeline.tuning import Search
    from bench.tracking.runs import Experiment


BUSY = 120.0  # seconds that another process may take to log a cell, on a busy machine
LONGEST = 120.0  # seconds that a server may take for a cell, or for a suite and its report


class Tracker:
    """Logs each cell when it ends and passes what it hears on to another watcher.

    A server is asked first whether it is there. Once MLflow has failed, it is told once and asked
    no more: `broken`; what MLflow refuses alone stops nothing else. `unsent` names what MLflow
    does not hold, with the reason.
    """

    def __init__(self, results: Path, console: Console, watcher: Watcher | None = None) -> None:
        self.results, self.console, self.watcher = results, console, watcher
        self.uri = tracking_uri(results)
        self.logbook = Logbook(results, self.uri)
        self.experiments: dict[tuple[str, str], Experiment] = {}
        self.unsent: dict[str, str] = {}
        self.broken = self._reached = False

    def begin(self, runs: int, models: int) -> None:
        """Pass on, and tell at once when no server is there."""
        if self.watcher:
            self.watcher.begin(runs, models)
        if own_database(self.results) is None:
            self._reach("MLflow")

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
        what = str(path.relative_to(self.results))
        try:
            note = records.read_note(path)
        except BenchError as error:
            self.tell(what, str(error))
            return False

        def log() -> None:
            with self.logbook.entry(what, note.key):
                self._experiment(note.suite, note.dataset).log_cell(note, path)

        return self.logbook.holds(what, note.key) or self._attempt(what, log)

    def log_suite(self, suite: str, scenarios: list[Scenario], key: str, report: Path) -> bool:
        """Log what a suite's records say together, and the folder of its report."""

        def log() -> None:
            with self.logbook.entry(comparison(suite), key):
                for dataset in dict.fromkeys(scenario.dataset for scenario in scenarios):
                    experiment = self._experiment(suite, dataset)
                    own = [scenario for scenario in scenarios if scenario.dataset == dataset]
                    for scenario in own:
                        experiment.log_summaries(scenario)
                    experiment.log_comparison(own, report, key)
                    summary = _summary_of(self.results, suite)
                    experiment.show([scenario.name for scenario in own], summary)

        return self._attempt(comparison(suite), log)

    def has_suite(self, suite: str, key: str) -> bool:
        """Return whether the comparison of a suite's records is in MLflow as they are."""
        if self.logbook.holds(comparison(suite), key):
            return True
        folders = records_folder(self.results, suite).iterdir()
        datasets = sorted(path.name for path in folders if path.is_dir())
        found: list[bool] = []

        def look() -> None:
            found.extend(self._experiment(suite, one).has_comparison(key) for one in datasets)
            if all(found):
                with self.logbook.entry(comparison(suite), key):
                    pass  # it was logged before

        return self._attempt(comparison(suite), look) and all(found)

    def log_search(self, search: Search) -> bool:
        """Log the trials of one method's search; to send them later, tune again: all is cached."""

        def log() -> None:
            suite = search.suite
            self._experiment(suite.name, dataset_label(suite.dataset)).log_search(search)

        return self._attempt(f"tuning of {search.method}", log, "tuning again")

    def _experiment(self, suite: str, dataset: str) -> Experiment:
        from bench.tracking.runs import Experiment, make_database

        database = own_database(self.results)
        if database is not None and not database.exists():
            make_database(database)
        if (suite, dataset) not in self.experiments:
            local = artifacts_folder(self.results) if self.uri.startswith("sqlite:") else None
            self.experiments[suite, dataset] = Experiment(self.uri, local, suite, dataset)
        return self.experiments[suite, dataset]

    def _reach(self, what: str, again: str | None = None) -> bool:
        """Ask before anybody waits for the answer, hence without the lock."""
        if not self.broken and not self._reached:
            try:
                reach(self.uri, self.results)
                self._reached = True
            except Exception as error:
                self._break(what, error, again)
        return not self.broken

    def _attempt(self, what: str, action: Callable[[], None], again: str | None = None) -> bool:
        """Do something with MLflow, one process of this folder at a time; tell what fails.

        `again` is what sends the same later, by default `bench track`.
        """
        if not self._reach(what, again):
            self.unsent.setdefault(what, "MLflow failed before")
            return False
        try:
            with self._alone(what):
                self._act(what, action)
        except Exception as error:
            if isinstance(error, BenchError) or _is_refusal(error):
                self.tell(what, shown(explained(error, self.uri, self.results)))
            else:
                self._break(what, error, again)
            return False
        self.unsent.pop(what, None)
        return True

    def _alone(self, what: str) -> AbstractContextManager[object]:
        """Take the lock of what is logged; tell when another process makes one wait for it."""
        held = lock(lock_path(self.results, "mlflow"))
        try:
            return held.acquire(timeout=UNTOLD)
        except Timeout:
            self._note(f"{what} waits for another process that logs to MLflow", BUSY)
            return held.acquire(timeout=BUSY)

    def _act(self, what: str, action: Callable[[], None]) -> None:
        """Work with MLflow; a server may hang, or answer drop by drop, at any request."""
        if self.uri.startswith(SQLITE):
            action()
            return

        def slow() -> None:
            self._note(f"MLflow is there, but slow to take {what}", LONGEST)

        attended(action, self.uri, self.results, LONGEST, slow)

    def _note(self, text: str, seconds: float) -> None:
        self.console.print(f"[yellow]note:[/] {told(text)}, at most {seconds:g} s", soft_wrap=True)

    def _break(self, what: str, error: Exception, again: str | None) -> None:
        """Report that MLflow failed, and ask it no more."""
        reason = shown(explained(error, self.uri, self.results))
        self.broken, self.unsent[what] = True, reason
        later = again or f"`{command('track', results=self.results)}`"
        self.console.print(
            f"[yellow]warning:[/] MLflow at {told(shown(self.uri))} failed ({told(reason)}); the "
            f"records are kept, {told(later)} sends them later",
            soft_wrap=True,
        )

    def tell(self, what: str, reason: str) -> None:
        """Report each reason once."""
        if reason not in self.unsent.values():
            self.console.print(
                f"[yellow]warning:[/] {told(what)} is not in MLflow: {told(reason)}", soft_wrap=True
            )
        self.unsent[what] = reason


def _is_refusal(error: Exception) -> bool:
    """Return whether MLflow works, yet refuses what it was given."""
    return getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def _summary_of(results: Path, suite: str) -> str:
    """State what a suite is for, as noted beside its records, and what a variant changes."""
    changes = ", ".join(part for part in suite.split("+")[1:] if "=" in part)
    summary = suite_summary(results, suite)
    return f"{summary} (with {changes})" if summary and changes else summary


def comparison(suite: str) -> str:
    """Name what a suite's records say together."""
    return f"comparison of {suite}"
