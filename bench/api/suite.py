"""The harness from Python: run a suite, read its records, compare its methods.

`import bench` offers these functions, and `bench.evaluate_upgrade` for models made elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.analysis.suite_records import only_suite, read_suite
from bench.errors import BenchError

if TYPE_CHECKING:
    import pandas as pd

    from bench.analysis.scenarios import Scenario
    from bench.pipeline.outcomes import Outcome
    from bench.report.compare import Comparison


@dataclass(frozen=True)
class SuiteRun:
    """What `run` made: the suite's name in the results folder, and one outcome per run."""

    suite: str
    results: Path
    outcomes: tuple[Outcome, ...]


class _Silent:
    """Hears how a run goes and tells nobody."""

    def begin(self, runs: int, models: int) -> None: ...

    def progress(self, label: str, stage: str, done: int, total: int) -> None: ...

    def finish(self, outcome: Outcome) -> None: ...


def run(
    suite: str = "default",
    results: Path | str = "results",
    *,
    dataset: str | None = None,
    scenarios: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    orders: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    jobs: int = 0,
    threads: int = 0,
) -> SuiteRun:
    """Run a suite as `python -m bench all` does, without printing and without MLflow.

    `settings` are those of `--set`, such as `{"epochs": 5, "ract.weight": 2}`; with other settings
    than the suite's the runs have a name of their own, which `SuiteRun.suite` says. Runs that are
    finished are not made again. `python -m bench track` sends the records to MLflow.

    Raises BenchError for unknown names and wrong settings and, after all others, for runs that
    failed.
    """
    from bench.analysis.suite_records import keep_order
    from bench.pipeline.naming import named_plan
    from bench.pipeline.runner import run as run_plan
    from bench.pipeline.tasks import RunSettings
    from bench.plugins.registry import dataset_class
    from bench.storage.store import Store
    from bench.suites.loading import load_suite
    from bench.suites.variants import compose_variant

    folder, content = Path(results), load_suite(suite)
    kind = str(dataset or content.get("dataset", "")).partition(":")[0]
    chosen = compose_variant(
        content,
        [f"{name}={json.dumps(value)}" for name, value in (settings or {}).items()],
        places=dataset_class(kind).unkeyed,
        dataset=dataset,
        scenarios=scenarios,
        methods=methods,
        seeds=seeds,
        orders=orders,
    )

    Store(folder).open()
    named, plan = named_plan(chosen, folder)
    keep_order(folder, named)
    how = replace(RunSettings(), jobs=jobs, threads=threads, retry_failed=True)
    outcomes = run_plan(plan, folder, _Silent(), how)
    if failed := [outcome for outcome in outcomes if outcome.status == "failed"]:
        raise BenchError(
            f"{len(failed)} of {len(outcomes)} runs of '{named.name}' failed, the first with: "
            f"{failed[0].error}; the others are in {folder}"
        )
    return SuiteRun(named.name, folder, tuple(outcomes))


def read_records(
    suite: str | None = None, results: Path | str = "results", order: str | None = None
) -> pd.DataFrame:
    """Read a suite's per-query records, by default of the only suite that has some.

    A row is a query of one run (`dataset`, `scenario`, `method`, `seed`) in one `system` (`old` or
    `refreshed`) at one backfilled `share`: its `AP` and whether a relevant item is among the first
    K (`success_at_K`). Rows are of one backfill order, by default the first of each run.

    Raises BenchError where there are no records, or none that belong together.
    """
    return _read(suite, results, order)[0]


def compare(
    suite: str | None = None, results: Path | str = "results", order: str | None = None
) -> list[Scenario]:
    """Compare a suite's methods in each scenario: estimates, 95 % intervals, corrected tests.

    See `bench.analysis.scenarios.Scenario` for what there is of each. Raises BenchError where there
    are no records, or none that can be compared.
    """
    from bench.analysis.scenarios import summarise

    return summarise(*_read(suite, results, order))


def compare_results(
    first: Path | str, second: Path | str, results: Path | str = "results"
) -> Comparison:
    """Compare two results as `python -m bench compare` does.

    Each is a results folder, a suite in `results`, a report or a folder of tables. Raises
    BenchError for what is none of these.
    """
    from bench.report.compare import compare as compared

    return compared(str(first), str(second), Path(results))


def _read(
    suite: str | None, results: Path | str, order: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder = Path(results)
    return read_suite(folder, suite or only_suite(folder), order)
