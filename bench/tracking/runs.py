"""One MLflow experiment: a run per cell, per (scenario, method) summary and per comparison.

Every run carries the key of what it shows. A run with that key is never logged twice; one whose
content has changed is replaced, and begins and ends when its work did. Metrics, parameters and tags
go in batches. The experiment's own tags hold its prepared views and its description.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from PIL import Image

from bench.analysis import suite_records
from bench.analysis.cells import arrays, chain_matrix, curve, scalars
from bench.evaluation import records
from bench.evaluation.metrics import chain_scalars
from bench.storage.digest import digest
from bench.storage.files import temporary
from bench.storage.metadata import RunMetadata
from bench.tracking.connection import deleted, sqlite_uri
from bench.tracking.descriptions import NOTE_TAG, comparison_note, experiment_note
from bench.tracking.views import VIEWS_TAG, views

if TYPE_CHECKING:
    from bench.analysis.scenarios import Scenario
    from bench.pipeline.tuning import Search, Trial

# MLflow sets its own levels when it is imported; what fails is told by `bench.tracking`.
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logging.getLogger("alembic").setLevel(logging.WARNING)
METRICS_A_CALL, ENTRIES_A_CALL, LONGEST = 1000, 100, 500
IDENTITY = ("kind", "scenario", "method", "seed")
# MLflow opens an experiment of this kind as model training, any other as GenAI.
KIND = {"mlflow.experimentKind": "custom_model_development"}
Identity = tuple[str, ...]


def make_database(path: Path) -> None:
    """Make MLflow's database, whole or not at all: it cannot use one whose making was cut off."""
    with temporary(path) as file:
        MlflowClient(sqlite_uri(file)).search_experiments()


class Experiment:
    """The experiment of one (suite, dataset) on one tracking server."""

    def __init__(self, uri: str, artifacts: Path | None, suite: str, dataset: str) -> None:
        self.client = MlflowClient(uri)
        self.tags = {"suite": suite, "dataset": dataset}
        name = f"{suite}/{dataset}"
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise deleted(name, found.experiment_id, uri)
        self.own_tags = dict(found.tags) if found is not None else dict(KIND)
        if found is not None:
            self.id = found.experiment_id
            self._tag(KIND)
        else:
            place = artifacts.resolve().as_uri() if artifacts else None
            self.id = self.client.create_experiment(name, place, KIND)
        self.runs = {_identity(run.data.tags): run for run in self._search("tags.kind != ''")}

    def log_cell(self, note: RunMetadata, path: Path) -> None:
        """Log the cell at `path`: curve by backfill percent, scalars, losses, settings, origin."""
        tags = {"kind": "cell", **{part: str(getattr(note, part)) for part in IDENTITY[1:4]}}
        if self._is_logged(tags, note.key):
            return
        name = f"{note.scenario} · {note.method} · seed {note.seed}"
        started, ended = work_time(note)
        parent = self._scenario_run(note.scenario, started, ended)
        run = self._start(name, tags, note.key, parent, started)
        rows = suite_records.in_order(records.read(path)[0], note)
        self._log(run, _cell_metrics(rows, note), _cell_settings(note))
        self.client.log_dict(run.info.run_id, _environment(note), "environment.json")
        self.client.log_inputs(run.info.run_id, [DatasetInput(_dataset(note))])
        self.client.log_artifact(run.info.run_id, str(path))
        self._finish(run, tags, ended=ended)
        self.show()

    def log_summaries(self, scenario: Scenario) -> None:
        """Log mean and bounds over seeds of each method, curves by backfill percent."""
        for position, method in enumerate(scenario.methods):
            metrics = list(_summary_metrics(scenario, position))
            tags = {"kind": "summary", "scenario": scenario.name, "method": method}
            key = digest([[metric.key, metric.step, repr(metric.value)] for metric in metrics])
            if not self._is_logged(tags, key):
                name = f"{scenario.name} · {method} · mean of seeds"
                started, ended = self._work_time("cell", scenario.name, method)
                parent = self._scenario_run(scenario.name, started, ended)
                run = self._start(name, tags, key, parent, started)
                self._log(run, metrics, {"seeds": list(scenario.seeds[method])})
                self._finish(run, tags, ended=ended)

    def log_comparison(self, scenarios: Sequence[Scenario], report: Path, key: str) -> None:
        """Log a suite's report as one run: verdict, tables to compare in MLflow, figures, page."""
        tags = {"kind": "comparison"}
        if self._is_logged(tags, key):
            return
        started, ended = self._work_time("cell")
        run = self._start("comparison of methods", tags, key, started=started)
        note = comparison_note(scenarios, report, run.info.run_id)
        self.client.set_tag(run.info.run_id, NOTE_TAG, note)
        for path in sorted(report.rglob("*.csv")):
            self.client.log_table(run.info.run_id, pd.read_csv(path), f"tables/{path.stem}.json")
        self.client.log_artifacts(run.info.run_id, str(report), "report")
        for figure in sorted(report.glob("figures/*.png")):
            with Image.open(figure) as image:
                self.client.log_image(run.info.run_id, image, key=figure.stem, step=0)
        self._finish(run, tags, ended=ended)

    def show(self, scenarios: Sequence[str] = (), summary: str = "") -> None:
        """Keep the views of the runs that are there, and a description that links to them.

        Views are in the order of `scenarios`; the others follow in alphabetical order.
        """
        places = list(scenarios)
        cells = [scenario for kind, scenario, *_ in self.runs if kind == "cell"]
        made = views(
            sorted(
                cells,
                key=lambda name: (places.index(name) if name in places else len(places), name),
            )
        )
        known = summary or self.own_tags.get("summary", "")
        comparison = self.runs.get(_identity({"kind": "comparison"}))
        note = experiment_note(
            self.tags["suite"],
            self.tags["dataset"],
            known,
            made,
            self.id,
            str(comparison.info.run_id) if comparison else None,
        )
        listed = json.dumps({view.key: view.name for view in made})
        shown = {NOTE_TAG: note, VIEWS_TAG: listed, "summary": known}
        self._tag({**shown, **dict(view.tag() for view in made)})

    def has_comparison(self, key: str) -> bool:
        """Return whether the comparison with this key is there."""
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
        """Return whether a finished run shows this; delete one that shows something else."""
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

    def _tag(self, tags: dict[str, str]) -> None:
        """Set those of the experiment's tags that are not so already."""
        for name, value in tags.items():
            if self.own_tags.get(name, "") != value:
                self.client.set_experiment_tag(self.id, name, value)
                self.own_tags[name] = value

    def _scenario_run(self, scenario: str, started: int, ended: int) -> str:
        """Find or make the run under which a scenario's runs are nested; it ends with the last."""
        tags = {"kind": "scenario", "scenario": scenario}
        if not self._is_logged(tags, scenario):
            run = self._start(scenario, tags, scenario, started=started)
            self._finish(run, tags, ended=ended)
        run = self.runs[_identity(tags)]
        if ended > (run.info.end_time or 0):
            self._finish(run, tags, ended=ended)
        return str(run.info.run_id)

    def _work_time(self, *identity: str) -> tuple[int, int]:
        """Return when the first of some runs began and the last ended, in milliseconds."""
        found = [run.info for place, run in self.runs.items() if place[: len(identity)] == identity]
        now = _now()
        return (
            min((info.start_time for info in found), default=now),
            max((info.end_time or now for info in found), default=now),
        )

    def _start(
        self,
        name: str,
        tags: dict[str, str],
        key: str,
        parent: str | None = None,
        started: int | None = None,
    ) -> Run:
        nested = {MLFLOW_PARENT_RUN_ID: parent} if parent else {}
        every = {**self.tags, **tags, "key": key, **nested}
        return self.client.create_run(self.id, start_time=started, tags=every, run_name=name)

    def _log(self, run: Run, metrics: Iterator[Metric] | list[Metric], settings: Any) -> None:
        every, run_id = list(metrics), run.info.run_id
        for start in range(0, len(every), METRICS_A_CALL):
            self.client.log_batch(run_id, metrics=every[start : start + METRICS_A_CALL])
        params = [Param(*pair) for pair in _flat(settings)]
        for start in range(0, len(params), ENTRIES_A_CALL):
            self.client.log_batch(run_id, params=params[start : start + ENTRIES_A_CALL])

    def _finish(
        self, run: Run, tags: dict[str, str], status: str = "FINISHED", ended: int | None = None
    ) -> None:
        self.client.set_terminated(run.info.run_id, status, ended)
        self.runs[_identity(tags)] = self.client.get_run(run.info.run_id)


def _identity(tags: dict[str, str]) -> Identity:
    return tuple(tags.get(name, "") for name in IDENTITY)


def work_time(note: RunMetadata) -> tuple[int, int]:
    """Return when a run's own work began and ended, in milliseconds since 1970.

    It ends with the evaluation and has begun as much earlier as its stages took, so that the time
    between a training and a much later evaluation is not counted.
    """
    if not note.work:
        return (now := _now()), now
    ended = max(span.ended for span in note.work.values())
    seconds = sum(span.seconds for span in note.work.values())
    return round(1000 * (ended - seconds)), round(1000 * ended)


def _now() -> int:
    return int(time.time() * 1000)


def _environment(note: RunMetadata) -> dict[str, Any]:
    """Collect what a run was made with: code, packages, machine, content of the dataset."""
    content = note.content()
    parts = ("provenance", "trained", "measured_on", "dataset_revision", "work", "code")
    return {part: content[part] for part in parts}


def _dataset(note: RunMetadata) -> Dataset:
    """Describe the images that a cell used, for MLflow's list of datasets."""
    return Dataset(
        name=note.dataset,
        digest=note.dataset_revision[:36],
        source_type="bench",
        source=json.dumps({"dataset": note.dataset, **note.settings.dataset}),
        profile=json.dumps(note.dataset_counts),
    )


def _cell_settings(note: RunMetadata) -> dict[str, Any]:
    """Name a cell's settings as `--set` does, a method's own by its name."""
    settings = note.content()["settings"]
    own = {f"{note.method}.{name}": value for name, value in settings.pop("method").items()}
    return {
        **{part: getattr(note, part) for part in ("scenario", "method", "seed")},
        **own,
        **settings,
    }


def _cell_metrics(rows: pd.DataFrame, note: RunMetadata) -> Iterator[Metric]:
    now = _now()
    cell = arrays(rows)
    for name, values in curve(cell).items():
        for share, value in zip(cell.shares, values, strict=True):
            yield Metric(name, float(value), now, round(100 * share))
    chain = chain_scalars(chain_matrix(rows)) if note.settings.is_chain else {}
    for name, value in {**scalars(cell), **chain, **note.rates}.items():
        yield Metric(name, float(value), now, 0)
    yield from _cost_metrics(note, now)
    for epoch, terms in enumerate(note.losses, start=1):
        for term, value in terms.items():
            yield Metric(f"loss_{term}", value, now, epoch)


def _cost_metrics(note: RunMetadata, now: int) -> Iterator[Metric]:
    """Costs of a query by backfill percent, and what does not depend on it."""
    costs = note.costs
    if costs is None:
        return
    by_share: dict[str, list[float]] = {
        "query_encodings": [len(each) for each in costs.encoders],
        "query_searches": [float(each) for each in costs.searches],
        "query_purchases": [float(each) for each in costs.purchases],
        "query_ms": costs.milliseconds(),
        "query_search_ms": costs.search_ms,
    }
    for name, values in by_share.items():
        for share, value in zip(costs.shares, values, strict=True):
            yield Metric(name, float(value), now, round(100 * share))
    for name in ("bytes_per_item", "fit_seconds", "fit_pairs"):
        yield Metric(name, float(getattr(costs, name)), now, 0)


def _scores(scores: dict[str, float]) -> list[Metric]:
    now = _now()
    return [Metric(name, value, now, 0) for name, value in scores.items()]


def _summary_metrics(scenario: Scenario, position: int) -> Iterator[Metric]:
    """Mean, low and high of every curve and quantity of one method of a scenario."""
    now = _now()
    for bound, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
        for name, estimates in scenario.curves.items():
            for share, value in zip(
                scenario.shares, getattr(estimates, bound)[position], strict=True
            ):
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
