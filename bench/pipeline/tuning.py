"""Fair tuning: the same number of trials for every method, on the validation split alone.

A method declares the ranges of its hyper-parameters (`bench.settings.tunable`). Its first trial is
its default configuration; the others are suggested by Optuna, seeded so that a search can be
repeated. Trials are cells like any other: all methods meet the same old systems, and a trial that
is there already is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from bench.analysis.cells import arrays, scalars
from bench.errors import BenchError, unknown
from bench.evaluation import records
from bench.output.texts import spreadsheet, told
from bench.pipeline.outcomes import Outcome
from bench.pipeline.plan import make_plan
from bench.pipeline.specs import CellSpec
from bench.plugins import registry
from bench.seeds import derive_seed
from bench.settings import search_space
from bench.storage.files import write_text
from bench.storage.results import tuning_folder
from bench.suites.schema import Suite

Run = Callable[[list[CellSpec]], list[Outcome]]
Scores = dict[str, float]

SCORES = ("AUC_mAP", "AUC_NFR_at_1", "M_new_old", "M_new_new")
# What is minimised. A new model that copies the old one flips nothing and gains nothing; the
# difference counts what the refreshed system answers, less what it breaks.
OBJECTIVES: dict[str, Callable[[Scores], float]] = {
    "AUC_NFR_at_1": lambda scores: scores["AUC_NFR_at_1"],
    "AUC_mAP": lambda scores: -scores["AUC_mAP"],
    "AUC_mAP-AUC_NFR_at_1": lambda scores: scores["AUC_NFR_at_1"] - scores["AUC_mAP"],
}


@dataclass(frozen=True)
class Trial:
    """One setting of a method: its scores, means over scenarios and seeds, or why it failed."""

    number: int
    settings: dict[str, Any]
    scores: Scores
    error: str = ""


@dataclass(frozen=True)
class Search:
    """Every trial of one method."""

    suite: Suite
    method: str
    objective: str
    trials: tuple[Trial, ...]

    @property
    def chosen(self) -> Trial | None:
        """The best trial, the earliest among equals; None when all failed."""
        finished = [trial for trial in self.trials if not trial.error]
        loss = OBJECTIVES[self.objective]
        return min(finished, key=lambda trial: loss(trial.scores), default=None)

    @property
    def use(self) -> str:
        """The options of the command line that use the chosen setting."""
        settings = self.chosen.settings if self.chosen else {}
        return " ".join(f"--set {self.method}.{name}={value}" for name, value in settings.items())

    def frame(self) -> pd.DataFrame:
        """One row per trial: its settings, its scores and its error."""
        rows = [
            {"trial": trial.number, **trial.settings, **trial.scores, "error": trial.error}
            for trial in self.trials
        ]
        return pd.DataFrame(rows, columns=["trial", *self.trials[0].settings, *SCORES, "error"])

    def table(self) -> Table:
        """Show every trial, the chosen one marked."""
        frame = self.frame()
        title = f"{self.method}: {len(frame)} trials on the validation split, by {self.objective}"
        table = Table(*frame.columns, title=title)
        for trial, row in zip(self.trials, frame.itertuples(index=False), strict=True):
            texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row]
            texts[0] += " ✓" if trial is self.chosen else ""
            table.add_row(*map(told, texts), style="green" if trial is self.chosen else None)
        return table

    def content(self) -> dict[str, Any]:
        """Describe the search in JSON."""
        return {
            "method": self.method,
            "objective": self.objective,
            "suite": self.suite.model_dump(mode="json"),
            "chosen": self.chosen.number if self.chosen else None,
            "use": self.use,
            "trials": [asdict(trial) for trial in self.trials],
        }

    def write(self, results: Path) -> Path:
        """Keep the trials as JSON and CSV under `results/tuning/`; return the CSV's path."""
        folder = tuning_folder(results, self.suite.name, self.suite.dataset)
        write_text(folder / f"{self.method}.json", json.dumps(self.content(), indent=1))
        write_text(folder / f"{self.method}.csv", spreadsheet(self.frame()).to_csv(index=False))
        return folder / f"{self.method}.csv"


def tune(
    suite: Suite, budget: int, objective: str, results: Path, run: Run, fixed: Collection[str] = ()
) -> list[Search]:
    """Try `budget` settings of every method of a suite, all methods' first trials first.

    `run` runs a plan; `fixed` names settings, `METHOD.KEY`, that are not searched. The records of
    each method's chosen setting are left under the suite's name with `-tuning` behind it. Raises
    BenchError when the suite would read the test split or a method has nothing to search.
    """
    if suite.split != "validation":
        raise BenchError(f"tuning reads the validation split alone; leave out split={suite.split}")
    if objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)
    methods = tuple(dict.fromkeys(suite.methods))
    changes = {"name": f"{suite.name}-tuning", "methods": methods, "orders": ("random",)}
    suite = suite.model_copy(update=changes)
    samplers = {method: _Sampler(suite, method, objective, fixed) for method in methods}
    found: dict[str, list[Trial]] = {method: [] for method in methods}
    for number in range(budget):
        settings = {method: samplers[method].suggest() for method in methods}
        plan = _plan(suite, settings)
        outcomes = run(plan)
        for method in methods:
            own = [o for s, o in zip(plan, outcomes, strict=True) if s.cell.method == method]
            trial = _judge(number, settings[method], own, results)
            samplers[method].learn(trial)
            found[method].append(trial)
    searches = [Search(suite, method, objective, tuple(found[method])) for method in methods]
    chosen = {search.method: search.chosen.settings for search in searches if search.chosen}
    run(_plan(suite, chosen))  # cached; this puts their records where people look
    return searches


class _Sampler:
    """Suggests settings of one method: its defaults first, then what Optuna thinks."""

    def __init__(self, suite: Suite, method: str, objective: str, fixed: Collection[str]) -> None:
        try:
            import optuna
        except ImportError as error:
            raise BenchError(
                'tuning needs Optuna, which is not installed; pip install "optuna>=4"'
            ) from error
        config = registry.method_class(method).Config
        space = search_space(config)
        self.space = {name: space[name] for name in space if f"{method}.{name}" not in fixed}
        if not self.space:
            raise BenchError(f"method '{method}' has no setting left to search; leave it out")
        self.defaults = {name: config.model_fields[name].default for name in self.space}
        self.loss, self.failed = OBJECTIVES[objective], optuna.trial.TrialState.FAIL
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = derive_seed("tuning", method, suite.name, suite.dataset, *suite.scenarios, objective)
        self.study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed % 2**32))
        self.study.enqueue_trial(self.defaults)

    def suggest(self) -> dict[str, Any]:
        """Suggest a setting, numbers but the defaults rounded to what people read and type."""
        self.asked = self.study.ask()
        suggested = {name: self._value(name, **search) for name, search in self.space.items()}
        return suggested if self.asked.number else self.defaults

    def _value(self, name: str, **search: Any) -> Any:
        if "choices" in search:
            return self.asked.suggest_categorical(name, **search)
        if isinstance(self.defaults[name], int):
            return self.asked.suggest_int(name, **search)
        return float(f"{self.asked.suggest_float(name, **search):.4g}")

    def learn(self, trial: Trial) -> None:
        """Receive what came of the setting suggested last."""
        if trial.error:
            self.study.tell(self.asked, state=self.failed)
        else:
            self.study.tell(self.asked, self.loss(trial.scores))


def _plan(suite: Suite, settings: dict[str, dict[str, Any]]) -> list[CellSpec]:
    """Plan a trial of every method that has settings."""
    options = {name: {**suite.options.get(name, {}), **own} for name, own in settings.items()}
    changes = {"methods": tuple(settings), "options": {**suite.options, **options}}
    return make_plan(suite.model_copy(update=changes))


def _judge(number: int, settings: dict[str, Any], outcomes: list[Outcome], results: Path) -> Trial:
    """Average the cells of a trial; one that failed fails the trial."""
    cells = []
    for outcome in outcomes:
        assert isinstance(outcome.spec, CellSpec)
        if outcome.status == "failed":
            return Trial(number, settings, {}, f"{outcome.spec.cell}: {outcome.error}")
        rows, _ = records.read(outcome.spec.cell.record_path(results))
        cells.append(scalars(arrays(rows)))
    scores = {name: float(np.mean([cell[name] for cell in cells])) for name in SCORES}
    return Trial(number, settings, scores)
