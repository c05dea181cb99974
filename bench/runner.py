"""Runs a plan: shared models first, then every cell, in parallel; failures stay where they are."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench import records
from bench.checkpoint import DEFAULT_SECONDS
from bench.errors import BenchError, shown
from bench.plan import CellSpec, ModelSpec
from bench.remote import open_mirror
from bench.store import Store, publish, write_text
from bench.suite import RECORDS
from bench.workers import Engine, Send, TimeLimitError, Workers, idle_cores, time_limit

if TYPE_CHECKING:
    from bench.stages import Stages

Spec = ModelSpec | CellSpec


@dataclass(frozen=True)
class Outcome:
    """What became of a model or a cell: `done`, `cached` or `failed`, with its error.

    `passing` failures are the machine's (a full disk): the next run tries again by itself.
    `notes` say what was found damaged and made anew.
    """

    spec: Spec
    status: str
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""
    passing: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conduct:
    """How a plan is run; nothing here changes a result but `threads` and `devices`, in last bits.

    Each model is trained by `devices` processes of `threads` threads, with `readers` more to decode
    images for each; None: what a GPU's threads leave idle. `cell_timeout` is the seconds that one
    model or one cell may take, `checkpoint_seconds` the time between two states that a training
    keeps. Cells that failed before under the same key are left alone unless `retry_failed`.
    `engine(jobs, threads, devices, memory)` makes what runs the cells; `mirror` is a URL over which
    processes with different folders share finished stages.
    """

    jobs: int = 1
    threads: int = 1
    cell_timeout: float | None = None
    retry_failed: bool = False
    checkpoint_seconds: float = DEFAULT_SECONDS
    engine: Callable[[int, int, int, Callable[[], int]], Engine] = Workers
    mirror: str | None = None
    devices: int = 1
    readers: int | None = None


def label(spec: Spec) -> str:
    """Name a model or a cell for people."""
    if isinstance(spec, CellSpec):
        return str(spec.cell)
    parts = {"classes": spec.side.classes, "images": spec.side.images}
    seen = ", ".join(f"{share:.0%} of {what}" for what, share in parts.items() if share < 1)
    return f"{spec.method} on {seen or 'everything'}, {spec.recipe.backbone}, seed {spec.seed}"


class Watcher(Protocol):
    """Hears how a run goes; a display implements it."""

    def begin(self, total: int) -> None:
        """Hear how many tasks there will be."""

    def progress(self, label: str, stage: str, done: int, total: int) -> None:
        """Hear how far the stage in hand of a task is."""

    def finish(self, outcome: Outcome) -> None:
        """Hear that a task ended."""


def is_cached(store: Store, spec: Spec) -> bool:
    """Tell whether the result of a model or a cell is there under its present key, unverified."""
    return store.has("records" if isinstance(spec, CellSpec) else "models", spec.key)


def run(
    plan: Sequence[CellSpec], results: Path, watcher: Watcher, conduct: Conduct = Conduct()
) -> list[Outcome]:
    """Run every cell of a plan and return one outcome per cell, in the plan's order.

    A model that fails takes the cells that need it along; all others go on, also when a worker
    process is killed.
    """
    store = Store(results, open_mirror(conduct.mirror), watched=True)
    known = {spec: found for spec in plan if (found := _known(store, spec, conduct))}
    missing = [spec for spec in plan if spec not in known]
    shared = dict.fromkeys(model for spec in missing for model in spec.foundations())
    foundations = [model for model in shared if not is_cached(store, model)]
    watcher.begin(len(foundations) + len(plan))
    outcomes: dict[Spec, Outcome] = {}

    def settle(outcome: Outcome) -> None:
        outcome = replace(outcome, notes=(*outcome.notes, *store.notes))
        store.notes.clear()  # what was found damaged here is told with the next outcome
        outcomes[outcome.spec] = outcome
        watcher.finish(outcome)

    for outcome in known.values():
        settle(outcome)
    if missing:
        with (
            conduct.engine(
                conduct.jobs, conduct.threads, conduct.devices, partial(memory, missing, conduct)
            ) as engine,
            engine.messages(lambda message: watcher.progress(*message)) as send,
        ):
            conduct = replace(conduct, threads=engine.threads)
            task = partial(make, results=results.absolute(), conduct=conduct, send=send)
            for outcome in engine.each(foundations, task, _killed):
                settle(outcome)
            ready = []
            for spec in missing:
                if failed := _failed_foundation(spec, outcomes):
                    settle(_keep_failure(results, failed))
                else:
                    ready.append(spec)
            for outcome in engine.each(ready, task, _killed):
                settle(_keep_failure(results, _collected(store, outcome)))
    return [outcomes[spec] for spec in plan]


def memory(plan: Sequence[CellSpec], conduct: Conduct) -> int:
    """Bytes that a process takes for the largest training of some cells."""
    from bench.memory import of_cells  # imports timm

    return of_cells(plan, conduct.devices)


def _failed_foundation(spec: CellSpec, outcomes: dict[Spec, Outcome]) -> Outcome | None:
    """Fail a cell with the first model it needs that failed."""
    for model in spec.foundations():
        if model in outcomes and outcomes[model].status == "failed":
            return replace(outcomes[model], spec=spec, seconds=0.0, notes=())
    return None


def _collected(store: Store, outcome: Outcome) -> Outcome:
    """See that the records of a cell made elsewhere are here; a cell without is not done."""
    spec = outcome.spec
    if (
        outcome.status != "done"
        or not isinstance(spec, CellSpec)
        or store.here("records", spec.key)
    ):
        return outcome
    if store.obtain("records", spec.key):
        published = _republish(store, spec)
        return published if published.status == "failed" else outcome
    sentence = (
        f"it was made in another process, yet its records are not in {store.results} here; "
        "give a --results folder that every node shares, or a --mirror URL"
    )
    return replace(outcome, status="failed", error=sentence, passing=True)


def make(spec: Spec, results: Path, conduct: Conduct, send: Send) -> Outcome:
    """Make one model or one cell in this process; a failure is an outcome, not an exception."""
    import faiss
    import torch
    from safetensors import SafetensorError

    torch.set_num_threads(conduct.threads)
    faiss.omp_set_num_threads(conduct.threads)
    name, started, notes = label(spec), time.perf_counter(), list[str]()

    def report(stage: str, done: int, total: int) -> None:
        send((name, stage, done, total))

    try:
        with time_limit(conduct.cell_timeout):
            stages = _stages(
                results,
                conduct.mirror,
                conduct.checkpoint_seconds,
                conduct.devices,
                idle_cores(conduct.threads) if conduct.readers is None else conduct.readers,
            )
            stages.report, stages.store.notes = report, notes
            if isinstance(spec, CellSpec):
                stages.records(spec)
            else:
                stages.model(spec)
    except (Exception, TimeLimitError) as error:
        plain = isinstance(error, BenchError | TimeLimitError)
        return Outcome(
            spec,
            "failed",
            time.perf_counter() - started,
            shown(str(error) if plain else f"{type(error).__name__}: {error}"),
            shown(traceback.format_exc()),
            passing=isinstance(error, OSError | SafetensorError),
            notes=tuple(notes),
        )
    return Outcome(spec, "done", time.perf_counter() - started, notes=tuple(notes))


@lru_cache(maxsize=1)
def _stages(
    results: Path, mirror: str | None, checkpoint_seconds: float, devices: int, readers: int
) -> Stages:
    """Make the stages of this process: a data set that one task has loaded, the next one finds."""
    from bench.stages import Stages

    return Stages(
        Store(results, open_mirror(mirror), watched=True),
        checkpoint_seconds=checkpoint_seconds,
        devices=devices,
        readers=readers,
    )


def _killed(spec: Spec, error: Exception) -> Outcome:
    """Tell of a task whose worker process died under it, even when it ran alone."""
    sentence = (
        "its process was killed, most likely by the operating system for lack of memory; "
        "give it more memory, or a smaller batch_size or image_size"
    )
    return Outcome(spec, "failed", error=sentence, traceback=str(error))


def _known(store: Store, spec: CellSpec, conduct: Conduct) -> Outcome | None:
    """Find what a former run made of a cell: intact records, or a failure not to be retried."""
    if store.obtain("records", spec.key):
        return _republish(store, spec)
    return None if conduct.retry_failed else _former_failure(store.results, spec)


def _republish(store: Store, spec: CellSpec) -> Outcome:
    """Put cached records where people look for them, unless they are there unharmed."""
    place, notes = store.path("records", spec.key), []
    try:
        for name, target in spec.cell.published(store.results).items():
            source = place / name
            if target.exists() and target.read_bytes() == source.read_bytes():
                continue
            if name == RECORDS and target.exists() and _is_damaged(target):
                notes.append(f"{target} was damaged; restored from the cache")
            publish(source, target)
        _failure_path(store.results, spec).unlink(missing_ok=True)
    except OSError as error:
        return Outcome(spec, "failed", error=f"{type(error).__name__}: {error}", passing=True)
    return Outcome(spec, "cached", notes=tuple(notes))


def _is_damaged(path: Path) -> bool:
    try:
        records.read(path)
    except BenchError:
        return True
    return False


def _failure_path(results: Path, spec: CellSpec) -> Path:
    return spec.cell.record_path(results / "failures").with_suffix(".json")


def _former_failure(results: Path, spec: CellSpec) -> Outcome | None:
    """Recall that a cell failed in a former run with the same code and settings."""
    try:
        content = json.loads(_failure_path(results, spec).read_text())
        if content["key"] != spec.key or content["passing"]:
            return None
        error = f"{content['error']} (in a former run; --retry-failed tries it again)"
        return Outcome(spec, "failed", error=error, traceback=str(content["traceback"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _keep_failure(results: Path, outcome: Outcome) -> Outcome:
    """Keep a failed cell's error and traceback as a record; remove it when the cell succeeds."""
    if not isinstance(outcome.spec, CellSpec):
        return outcome
    path = _failure_path(results, outcome.spec)
    content = {
        **asdict(outcome.spec.cell),
        "key": outcome.spec.key,
        "error": outcome.error,
        "passing": outcome.passing,
        "traceback": outcome.traceback,
    }
    try:
        if outcome.status == "failed":
            write_text(path, json.dumps(content, indent=1))
        else:
            path.unlink(missing_ok=True)
    except OSError as error:  # of a full disk, only the display can tell
        return replace(outcome, notes=(*outcome.notes, f"{path} could not be written: {error}"))
    return outcome
