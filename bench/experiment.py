"""One MLflow experiment: a run per cell, per (scenario, method) summary and per comparison.

Every run carries the key of what it shows. A run with that key is never logged twice; one whose
content has changed is replaced. Metrics, parameters and tags go in batches.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from bench import records, summary
from bench.metrics import chain_scalars
from bench.store import digest, temporary

if TYPE_CHECKING:
    from bench.report.scenarios import Scenario
    from bench.tuning import Search, Trial

# MLflow sets its own levels when it is imported; what fails is told by `bench.tracking`.
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.WARNING)
METRICS_A_CALL, ENTRIES_A_CALL, LONGEST = 1000, 100, 500
IDENTITY = ("kind", "scenario", "method", "seed")
Identity = tuple[str, ...]


def make_database(path: Path) -> None:
    """Make MLflow's database, whole or not at all: it cannot use one whose making was cut off."""
    with temporary(path) as file:
        MlflowClient(f"sqlite:///{file.resolve()}").search_experiments()


class Experiment:
    """The experiment of one (suite, dataset) on one tracking server."""

    def __init__(self, uri: str, artifacts: Path | None, suite: str, dataset: str) -> None:
        self.client = MlflowClient(uri)
        self.tags = {"suite": suite, "dataset": dataset}
        name = f"{suite}/{dataset}"
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            self.id = found.experiment_id
        else:
            place = artifacts.resolve().as_uri() if artifacts else None
            self.id = self.client.create_experiment(name, place)
        self.runs = {_identity(run.data.tags): run for run in self._search("tags.kind != ''")}

    def log_cell(self, note: dict[str, Any], path: Path) -> None:
        """Log the cell at `path`: curve by backfill percent, scalars, losses, settings, origin."""
        tags = {"kind": "cell", **{part: str(note[part]) for part in IDENTITY[1:4]}}
        if self._is_logged(tags, note["key"]):
            return
        name = f"{note['scenario']} · {note['method']} · seed {note['seed']}"
        run = self._start(name, tags, note["key"], self._scenario_run(note["scenario"]))
        rows = records.in_order(records.read(path)[0], note)
        self._log(run, _cell_metrics(rows, note), _cell_settings(note))
        origin = {
            **note["provenance"],
            "measured_on": note["measured_on"],
            "dataset_revision": note["dataset_revision"],
        }
        self.client.log_batch(run.info.run_id, tags=[RunTag(*pair) for pair in _flat(origin)])
        self.client.log_inputs(run.info.run_id, [DatasetInput(_dataset(note))])
        self.client.log_artifact(run.info.run_id, str(path))
        self._finish(run, tags)

    def log_summaries(self, scenario: Scenario) -> None:
        """Log mean and bounds over seeds of each method, curves by backfill percent."""
        for position, method in enumerate(scenario.methods):
            metrics = list(_summary_metrics(scenario, position))
            tags = {"kind": "summary", "scenario": scenario.name, "method": method}
            key = digest([[metric.key, metric.step, repr(metric.value)] for metric in metrics])
            if not self._is_logged(tags, key):
                name = f"{scenario.name} · {method} · mean of seeds"
                run = self._start(name, tags, key, self._scenario_run(scenario.name))
                self._log(run, metrics, {"seeds": list(scenario.seeds[method])})
                self._finish(run, tags)

    def log_comparison(self, report: Path, key: str) -> None:
        """Log a suite's report as one run: its tables to compare in MLflow, figures and page."""
        tags = {"kind": "comparison"}
        if self._is_logged(tags, key):
            return
        run = self._start("comparison of methods", tags, key)
        for path in sorted(report.rglob("*.csv")):
            self.client.log_table(run.info.run_id, pd.read_csv(path), f"tables/{path.stem}.json")
        self.client.log_artifacts(run.info.run_id, str(report), "report")
        self._finish(run, tags)

    def has_comparison(self, key: str) -> bool:
        """Tell whether the comparison with this key is there."""
        return self._is_logged({"kind": "comparison"}, key)

    def log_search(self, search: Search) -> None:
        """Log a search of one method's settings, and each trial below it, in place of a former."""
        tags = {"kind": "tuning", "method": search.method}
        content = search.content()
        if self._is_logged(tags, key := digest(content)):
            return
        for former in self._search(f"tags.kind = 'trial' and tags.method = '{search.method}'"):
            self.client.delete_run(former.info.run_id)
        run = self._start(f"tuning of {search.method}", tags, key)
        for trial in search.trials:
            self._log_trial(trial, search.method, run.info.run_id)
        best = search.chosen
        settings = {**(best.settings if best else {}), "objective": search.objective}
        self._log(run, _scores(best.scores if best else {}), settings)
        self.client.log_dict(run.info.run_id, content, "trials.json")
        self._finish(run, tags)

    def _log_trial(self, trial: Trial, method: str, parent: str) -> None:
        """Log the settings and scores of one trial, or why it failed."""
        tags = {"kind": "trial", "method": method, "trial": str(trial.number)}
        run = self._start(f"{method} · trial {trial.number}", tags, parent, parent)
        self._log(run, _scores(trial.scores), trial.settings)
        if trial.error:
            self.client.set_tag(run.info.run_id, "error", trial.error[:LONGEST])
        self._finish(run, tags, "FAILED" if trial.error else "FINISHED")

    # ------------------------------------------------------------------------------------ runs

    def _is_logged(self, tags: dict[str, str], key: str) -> bool:
        """Tell whether a finished run shows this; delete one that shows something else."""
        identity = _identity(tags)
        if identity not in self.runs:  # another process may have logged it meanwhile
            wanted = [f"tags.{name} = '{value}'" for name, value in tags.items()]
            found = self._search(" and ".join(wanted))
            self.runs |= {_identity(run.data.tags): run for run in found}
        run = self.runs.get(identity)
        if run is None:
            return False
        if run.data.tags.get("key") == key and run.info.status == "FINISHED":
            return True
        self.client.delete_run(run.info.run_id)
        del self.runs[identity]
        return False

    def _search(self, wanted: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs([self.id], wanted, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _scenario_run(self, scenario: str) -> str:
        """Find or make the run under which a scenario's runs are nested."""
        tags = {"kind": "scenario", "scenario": scenario}
        if not self._is_logged(tags, scenario):
            self._finish(self._start(scenario, tags, scenario), tags)
        return str(self.runs[_identity(tags)].info.run_id)

    def _start(self, name: str, tags: dict[str, str], key: str, parent: str | None = None) -> Run:
        nested = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        every = {**self.tags, **tags, "key": key, **nested}
        return self.client.create_run(self.id, tags=every, run_name=name)

    def _log(self, run: Run, metrics: Iterator[Metric] | list[Metric], settings: Any) -> None:
        every, run_id = list(metrics), run.info.run_id
        for start in range(0, len(every), METRICS_A_CALL):
            self.client.log_batch(run_id, metrics=every[start : start + METRICS_A_CALL])
        params = [Param(*pair) for pair in _flat(settings)]
        for start in range(0, len(params), ENTRIES_A_CALL):
            self.client.log_batch(run_id, params=params[start : start + ENTRIES_A_CALL])

    def _finish(self, run: Run, tags: dict[str, str], status: str = "FINISHED") -> None:
        self.client.set_terminated(run.info.run_id, status)
        self.runs[_identity(tags)] = self.client.get_run(run.info.run_id)


def _identity(tags: dict[str, str]) -> Identity:
    return tuple(tags.get(name, "") for name in IDENTITY)


def _dataset(note: dict[str, Any]) -> Dataset:
    """Describe the images that a cell used, for MLflow's list of data sets."""
    return Dataset(
        name=note["dataset"],
        digest=note["dataset_revision"][:36],
        source_type="bench",
        source=json.dumps({"dataset": note["dataset"], **note["settings"]["dataset"]}),
        profile=json.dumps(note["dataset_counts"]),
    )


def _cell_settings(note: dict[str, Any]) -> dict[str, Any]:
    """Name a cell's settings as `--set` does, a method's own by its name."""
    settings = dict(note["settings"])
    own = {f"{note['method']}.{name}": value for name, value in settings.pop("method").items()}
    return {**{part: note[part] for part in ("scenario", "method", "seed")}, **own, **settings}


def _cell_metrics(rows: pd.DataFrame, note: dict[str, Any]) -> Iterator[Metric]:
    now = int(time.time() * 1000)
    cell = summary.arrays(rows)
    for name, values in summary.curve(cell).items():
        for share, value in zip(cell.shares, values, strict=True):
            yield Metric(name, float(value), now, round(100 * share))
    chain = chain_scalars(summary.chain_matrix(rows)) if "first_side" in note["settings"] else {}
    for name, value in {**summary.scalars(cell), **chain, **note["rates"]}.items():
        yield Metric(name, float(value), now, 0)
    for epoch, terms in enumerate(note["losses"], start=1):
        for term, value in terms.items():
            yield Metric(f"loss_{term}", value, now, epoch)


def _scores(scores: dict[str, float]) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(name, value, now, 0) for name, value in scores.items()]


def _summary_metrics(scenario: Scenario, position: int) -> Iterator[Metric]:
    """Mean, low and high of every curve and quantity of one method of a scenario."""
    now = int(time.time() * 1000)
    for bound, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
        for name, curve in scenario.curves.items():
            for share, value in zip(scenario.shares, getattr(curve, bound)[position], strict=True):
                yield Metric(f"{name}{suffix}", float(value), now, round(100 * share))
        for name, estimate in scenario.estimates.items():
            value = float(getattr(estimate, bound)[position])
            # Points of a curve are logged above; tax and gain may be unknown.
            if "@" not in name and value == value:
                yield Metric(f"{name}{suffix}", value, now, 0)


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Flatten nested settings to dotted names and texts that MLflow takes."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)[:LONGEST]
