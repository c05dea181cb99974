"""One task of a run in its process: a model or a run's records, with how it is to be made."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, shown
from bench.execution.engine import Engine
from bench.execution.limits import TimeLimitError, time_limit
from bench.execution.machine import MachineError, is_machines
from bench.execution.messages import Send
from bench.execution.resources import idle_cores
from bench.execution.workers import Workers
from bench.pipeline.outcomes import Outcome, Task, label
from bench.pipeline.specs import CellSpec
from bench.training.checkpoint import DEFAULT_SECONDS


@dataclass(frozen=True)
class RunSettings:
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


DEFAULT_SETTINGS = RunSettings()


def run_task(spec: Task, results: Path, settings: RunSettings, send: Send) -> Outcome:
    """Make one model or one run in this process; its failure is an outcome, not an exception.

    Raises MachineError for one of the machine, after which this process is not to be used again.
    """
    import faiss
    import torch
    from safetensors import SafetensorError

    from bench.pipeline.make import maker_of_process

    torch.set_num_threads(settings.threads)
    faiss.omp_set_num_threads(settings.threads)
    name, started, notes = label(spec), time.perf_counter(), list[str]()

    def report(stage: str, done: int, total: int) -> None:
        send((name, stage, done, total))

    try:
        with time_limit(settings.cell_timeout):
            maker = maker_of_process(
                results,
                settings.mirror,
                settings.checkpoint_seconds,
                settings.devices,
                idle_cores(settings.threads) if settings.readers is None else settings.readers,
            )
            maker.report, maker.store.notes = report, notes
            if isinstance(spec, CellSpec):
                maker.records(spec)
            else:
                maker.make(spec)
    except (Exception, TimeLimitError) as error:
        if is_machines(error):
            raise MachineError(shown(f"{type(error).__name__}: {error}")) from error
        plain = isinstance(error, BenchError | TimeLimitError)
        return Outcome(
            spec,
            "failed",
            time.perf_counter() - started,
            shown(str(error) if plain else f"{type(error).__name__}: {error}"),
            shown(traceback.format_exc()),
            # A sentence may be about the machine as well: a file that this user may not read.
            transient=any(
                isinstance(each, OSError | SafetensorError) for each in (error, error.__cause__)
            ),
            notes=tuple(notes),
        )
    return Outcome(spec, "done", time.perf_counter() - started, notes=tuple(notes))
