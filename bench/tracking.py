"""Records → MLflow, in batches; a tracking failure costs a warning, never a cell.

One experiment per (suite, dataset), one parent run per scenario, one child run per cell. A cell's
run carries the key of its records, so that a repeated suite logs nothing twice; when a cell's
records change, its former run is replaced.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import records
from bench.plan import CellSpec
from bench.runner import Outcome, Watcher

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from rich.console import Console

BATCH = 1000  # metrics that MLflow takes in one call
CURVES = ("mAP", "NFR_at_1", "NFR_at_5", "PFR_at_1", "PFR_at_5")


def tracking_uri(results: Path) -> str:
    """Where runs are logged: `MLFLOW_TRACKING_URI` when set, else a database in the folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{results.resolve()}/mlflow.db"


class Tracker:
    """Logs each cell when it ends and passes what it hears on to another watcher."""

    def __init__(self, results: Path, console: Console, watcher: Watcher | None = None) -> None:
        self.results, self.console, self.watcher = results, console, watcher
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
        """Log one cell's records and say whether it worked; after a failure log no more."""
        if self.broken:
            return False
        uri = tracking_uri(self.results)
        try:
            rows, note = records.read(path)
            place = (note["suite"], note["dataset"])
            if place not in self.experiments:
                self.experiments[place] = Experiment(uri, self.results, *place)
            self.experiments[place].log_cell(rows, note, path)
        except Exception as error:
            self.broken = True
            self.console.print(
                f"[yellow]warning:[/] MLflow at {uri} failed ({type(error).__name__}: "
                f"{str(error)[:200]}); the records are kept, "
                f"`python -m bench track --results {self.results}` sends them later",
                soft_wrap=True,
            )
        return not self.broken


class Experiment:
    """One MLflow experiment and the runs that it has already."""

    def __init__(self, uri: str, results: Path, suite: str, dataset: str) -> None:
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # quiet only after MLflow has set its own levels
            logging.getLogger(name).setLevel(logging.WARNING)
        self.client: MlflowClient = MlflowClient(uri)
        name = f"{suite}/{dataset}"
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            self.id = found.experiment_id
        else:
            local = uri.startswith("sqlite:")
            folder = (results / "artifacts").resolve()
            self.id = self.client.create_experiment(name, folder.as_uri() if local else None)
        self.runs = {tuple(_identity(run.data.tags)): run for run in self._search()}

    def _search(self) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([self.id], "tags.kind != ''", page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def log_cell(self, rows: Any, note: dict[str, Any], path: Path) -> None:
        """Log a cell's curve, scalars, losses, settings and records, unless they are there."""
        tags = {
            "kind": "cell",
            **{
                name: str(note[name]) for name in ("suite", "dataset", "scenario", "method", "seed")
            },
            "key": note["key"],
        }
        known = self.runs.get(tuple(_identity(tags)))
        if known is not None:
            if known.data.tags.get("key") == note["key"] and known.info.status == "FINISHED":
                return
            self.client.delete_run(known.info.run_id)
        name = f"{note['scenario']} · {note['method']} · seed {note['seed']}"
        run = self._start(name, {**tags, "mlflow.parentRunId": self._parent(note)})
        run_id = run.info.run_id
        metrics = list(_metrics(rows, note))
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        self.client.log_batch(run_id, params=_params(note), tags=_environment_tags(note))
        self.client.log_artifact(run_id, str(path))
        self.client.set_terminated(run_id)
        self.runs[tuple(_identity(tags))] = self.client.get_run(run_id)

    def _parent(self, note: dict[str, Any]) -> str:
        """Find or make the run that holds a scenario's cells."""
        tags = {"kind": "scenario", **{k: note[k] for k in ("suite", "dataset", "scenario")}}
        identity = tuple(_identity(tags))
        if identity not in self.runs:
            run = self._start(note["scenario"], tags)
            self.client.set_terminated(run.info.run_id)
            self.runs[identity] = run
        return str(self.runs[identity].info.run_id)

    def _start(self, name: str, tags: dict[str, str]) -> Any:
        return self.client.create_run(self.id, tags=tags, run_name=name)


def _identity(tags: dict[str, str]) -> list[str]:
    return [tags.get(name, "") for name in ("kind", "scenario", "method", "seed")]


def _metrics(rows: Any, note: dict[str, Any]) -> Iterator[Metric]:
    """Make every metric of a cell: curves by backfill percent, scalars, losses by epoch."""
    from mlflow.entities import Metric

    from bench import summary

    now = int(time.time() * 1000)
    cell = summary.arrays(rows)
    curves = summary.curve(cell)
    for name in CURVES:
        for share, value in zip(cell.shares, curves[name], strict=True):
            yield Metric(name, float(value), now, round(100 * share))
    for name, value in {**summary.scalars(cell), **note["rates"]}.items():
        yield Metric(name, float(value), now, 0)
    for epoch, terms in enumerate(note["losses"], start=1):
        for term, value in terms.items():
            yield Metric(f"loss_{term}", value, now, epoch)


def _params(note: dict[str, Any]) -> list[Any]:
    """Make a cell's parameters: its recipe, its sides and its method's settings."""
    from mlflow.entities import Param

    return [Param(name, str(value)[:500]) for name, value in _flat(note["settings"])]


def _environment_tags(note: dict[str, Any]) -> list[Any]:
    from mlflow.entities import RunTag

    environment = {**note["provenance"], "dataset_revision": note["dataset_revision"]}
    return [RunTag(name, str(value)[:500]) for name, value in _flat(environment)]


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested settings to dotted names."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
