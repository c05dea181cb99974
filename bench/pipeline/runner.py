"""Runs a plan: shared models first, then every cell, in parallel; failures stay where they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.evaluation import records
from bench.execution.machine import MachineError
from bench.pipeline.failures import former_failure, keep_failure
from bench.pipeline.outcomes import Outcome, Task, Watcher
from bench.pipeline.specs import CellSpec
from bench.pipeline.tasks import DEFAULT_SETTINGS, RunSettings, run_task
from bench.storage.files import discard, publish
from bench.storage.mirror import open_mirror
from bench.storage.results import FLIPS, RECORDS
from bench.storage.store import Store

if TYPE_CHECKING:
    pass


def is_cached(store: Store, spec: Task) -> bool:
    """Return whether the result of a model or a cell is there under its present key, unverified."""
    return store.has(spec.stage, spec.key)


def run(
    plan: Sequence[CellSpec],
    results: Path,
    watcher: Watcher,
    settings: RunSettings = DEFAULT_SETTINGS,
) -> list[Outcome]:
    """Run every cell of a plan and return one outcome per cell, in the plan's order.

    A model that fails takes the cells that need it along; all others go on, also when a worker
    process is killed.
    """
    store = Store(results, open_mirror(settings.mirror), watched=True)
    known = {spec: found for spec in plan if (found := _known(store, spec, settings))}
    missing = [spec for spec in plan if spec not in known]
    shared = dict.fromkeys(model for spec in missing for model in spec.shared_models())
    shared_models = [model for model in shared if not is_cached(store, model)]
    watcher.begin(len(plan), len(shared_models))
    outcomes: dict[Task, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcome = replace(outcome, notes=(*outcome.notes, *store.notes))
        store.notes.clear()  # what was found damaged here is told with the next outcome
        outcomes[outcome.spec] = outcome
        watcher.finish(outcome)

    for outcome in known.values():
        settle(outcome)
    if missing:
        with (
            settings.engine(
                settings.jobs,
                settings.threads,
                settings.devices,
                partial(memory, missing, settings),
            ) as engine,
            engine.messages(lambda message: watcher.progress(*message)) as send,
        ):
            settings = replace(settings, threads=engine.threads)
            task = partial(run_task, results=results.absolute(), settings=settings, send=send)
            for outcome in engine.each(shared_models, task, _killed):
                settle(outcome)
            ready = []
            for spec in missing:
                if failed := _failed_foundation(spec, outcomes):
                    settle(keep_failure(results, failed))
                else:
                    ready.append(spec)
            for outcome in engine.each(ready, task, _killed):
                settle(keep_failure(results, _collected(store, outcome)))
    return [outcomes[spec] for spec in plan]


def memory(plan: Sequence[CellSpec], settings: RunSettings) -> int:
    """Bytes that a process takes for the largest training of some cells."""
    from bench.pipeline.memory import of_cells

    return of_cells(plan, settings.devices)


def _failed_foundation(spec: CellSpec, outcomes: dict[Task, Outcome]) -> Outcome | None:
    """Fail a cell with the first model it needs that failed."""
    for model in spec.shared_models():
        if model in outcomes and outcomes[model].status == "failed":
            return replace(outcomes[model], spec=spec, seconds=0.0, notes=())
    return None


def _collected(store: Store, outcome: Outcome) -> Outcome:
    """See that the records of a cell made elsewhere are here; a cell without is not done."""
    spec = outcome.spec
    if (
        outcome.status != "done"
        or not isinstance(spec, CellSpec)
        or store.here(spec.stage, spec.key)
    ):
        return outcome
    if store.obtain(spec.stage, spec.key, (RECORDS, FLIPS)):
        published = _republish(store, spec)
        return published if published.status == "failed" else outcome
    sentence = (
        f"it was made in another process, yet its records are not in {store.results} here; "
        "give a --results folder that every node shares, or a --mirror URL"
    )
    return replace(outcome, status="failed", error=sentence, transient=True)


def _killed(spec: Task, error: Exception) -> Outcome:
    """Report a task whose worker or node died under it again and again, or whose machine failed.

    That is the machine's failure, not the cell's, so that the next run tries it again by itself.
    """
    if isinstance(error, MachineError):
        told = f"{error}; it was tried twice, the second time with nothing beside it"
        return Outcome(spec, "failed", error=told, traceback=str(error.__cause__), transient=True)
    sentence = (
        "its process was killed again and again, by the operating system for lack of memory or by "
        "somebody else; the same command tries it again, if memory is short with fewer --jobs, or "
        "a smaller batch_size or image_size"
    )
    return Outcome(spec, "failed", error=sentence, traceback=str(error), transient=True)


def _known(store: Store, spec: CellSpec, settings: RunSettings) -> Outcome | None:
    """Find what a former run made of a cell: intact records, or a failure not to be retried."""
    if store.obtain(spec.stage, spec.key, (RECORDS, FLIPS)):
        return _republish(store, spec)
    return None if settings.retry_failed else former_failure(store.results, spec)


def _republish(store: Store, spec: CellSpec) -> Outcome:
    """Put cached records where people look for them, unless they are there unharmed."""
    place, notes = store.path(spec.stage, spec.key), []
    try:
        for name, target in spec.cell.published(store.results).items():
            source = place / name
            if target.is_file() and target.read_bytes() == source.read_bytes():
                continue
            if name == RECORDS and target.exists() and _is_damaged(target):
                notes.append(f"{target} was damaged; restored from the cache")
            publish(source, target)
        discard(spec.cell.failure_path(store.results))
    except OSError as error:
        return Outcome(spec, "failed", error=f"{type(error).__name__}: {error}", transient=True)
    return Outcome(spec, "cached", notes=tuple(notes))


def _is_damaged(path: Path) -> bool:
    try:
        records.read(path)
    except BenchError:
        return True
    return False
