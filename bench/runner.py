"""Runs a plan: shared models first, then every cell, in parallel; failures stay where they are."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import joblib

from bench.errors import BenchError
from bench.plan import CellSpec, ModelSpec
from bench.store import Store, publish, write_text

Spec = ModelSpec | CellSpec
Send = Callable[[tuple[str, str, int, int] | None], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a model or a cell: `done`, `cached` or `failed`, with its error."""

    spec: Spec
    status: str
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""


def label(spec: Spec) -> str:
    """Name a model or a cell for people."""
    if isinstance(spec, CellSpec):
        return str(spec.cell)
    return f"{spec.method} model of {spec.recipe.backbone}/seed-{spec.seed}"


class Watcher(Protocol):
    """Hears how a run goes; a display implements it."""

    def begin(self, total: int) -> None:
        """Hear how many tasks there will be."""

    def progress(self, label: str, stage: str, done: int, total: int) -> None:
        """Hear how far the stage in hand of a task is."""

    def finish(self, outcome: Outcome) -> None:
        """Hear that a task ended."""


def is_cached(store: Store, spec: Spec) -> bool:
    """Tell whether the result of a model or a cell is there under its present key."""
    return store.has("records" if isinstance(spec, CellSpec) else "models", spec.key)


def run(
    plan: Sequence[CellSpec], results: Path, jobs: int, threads: int, watcher: Watcher
) -> list[Outcome]:
    """Run every cell of a plan and return one outcome per cell, in the plan's order.

    A model that fails takes the cells that need it along; all others go on.
    """
    store = Store(results)
    missing = [spec for spec in plan if not is_cached(store, spec)]
    shared = dict.fromkeys(model for spec in missing for model in spec.foundations())
    foundations = [model for model in shared if not is_cached(store, model)]
    watcher.begin(len(foundations) + len(plan))
    outcomes: dict[Spec, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcomes[outcome.spec] = outcome
        _keep_failure(results, outcome)
        watcher.finish(outcome)

    for spec in plan:
        if spec not in missing:
            settle(_republish(store, spec))
    with _messages(jobs, watcher) as send:
        for outcome in _each(foundations, results, jobs, threads, send):
            settle(outcome)
        ready = []
        for spec in missing:
            failed = [
                outcomes[model]
                for model in spec.foundations()
                if model in outcomes and outcomes[model].status == "failed"
            ]
            if failed:
                settle(replace(failed[0], spec=spec, seconds=0.0))
            else:
                ready.append(spec)
        for outcome in _each(ready, results, jobs, threads, send):
            settle(outcome)
    return [outcomes[spec] for spec in plan]


def make(spec: Spec, results: Path, threads: int, send: Send) -> Outcome:
    """Make one model or one cell in this process; a failure is an outcome, not an exception."""
    import faiss
    import torch

    from bench.stages import Stages

    torch.set_num_threads(threads)
    faiss.omp_set_num_threads(threads)
    name, started = label(spec), time.perf_counter()

    def report(stage: str, done: int, total: int) -> None:
        send((name, stage, done, total))

    try:
        stages = Stages(Store(results), report)
        if isinstance(spec, CellSpec):
            stages.records(spec)
        else:
            stages.model(spec)
            stages.embeddings(spec, "train")
    except Exception as error:
        sentence = (
            str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
        )
        elapsed = time.perf_counter() - started
        return Outcome(spec, "failed", elapsed, sentence, traceback.format_exc())
    return Outcome(spec, "done", time.perf_counter() - started)


def _each(
    specs: Sequence[Spec], results: Path, jobs: int, threads: int, send: Send
) -> Iterator[Outcome]:
    """Make specs in parallel, yielding outcomes as they come."""
    parallel = joblib.Parallel(
        n_jobs=max(1, min(jobs, len(specs))), return_as="generator_unordered", pre_dispatch="all"
    )
    yield from parallel(joblib.delayed(make)(spec, results, threads, send) for spec in specs)


@contextmanager
def _messages(jobs: int, watcher: Watcher) -> Iterator[Send]:
    """Carry progress from worker processes to the watcher while the block runs."""
    if jobs == 1:
        yield lambda message: watcher.progress(*message) if message else None
        return
    with multiprocessing.Manager() as manager:
        channel = manager.Queue()

        def listen() -> None:
            while (message := channel.get()) is not None:
                watcher.progress(*message)

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        yield channel.put
        channel.put(None)
        listener.join()


def _republish(store: Store, spec: CellSpec) -> Outcome:
    """Put cached records where people look for them, unless they are there."""
    source = store.path("records", spec.key) / "records.parquet"
    target = spec.cell.record_path(store.results)
    if not target.exists() or target.read_bytes() != source.read_bytes():
        publish(source, target)
    return Outcome(spec, "cached")


def _keep_failure(results: Path, outcome: Outcome) -> None:
    """Keep a failed cell's error and traceback as a record; remove it when the cell succeeds."""
    if not isinstance(outcome.spec, CellSpec):
        return
    cell = outcome.spec.cell
    path = cell.record_path(results / "failures").with_suffix(".json")
    if outcome.status != "failed":
        path.unlink(missing_ok=True)
        return
    content = {**asdict(cell), "error": outcome.error, "traceback": outcome.traceback}
    write_text(path, json.dumps(content, indent=1))
