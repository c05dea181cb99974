"""Where a rehearsal takes place: this machine's GPUs, or a pretended one where there is none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from loky import ProcessPoolExecutor

from bench.authoring.pretended import pretended_fabric, pretended_gpu
from bench.execution.limits import begin_worker
from bench.execution.resources import least_memory, variables
from bench.execution.workers import Workers
from bench.pipeline import make
from bench.pipeline.outcomes import Outcome
from bench.pipeline.plan import make_plan
from bench.pipeline.runner import run
from bench.pipeline.specs import CellSpec
from bench.pipeline.tasks import RunSettings
from bench.plugins import registry
from bench.storage.store import Store
from bench.suites.loading import compose, load_suite

Report = Callable[[str], None]  # receives what is being done
# Pictures that a CPU learns in a second; layers that need no statistics of the batch.
SMALL = ("epochs=1", "image_size=32", "width=16", "synthetic.images_per_class=4")


@dataclass(frozen=True)
class Stand:
    """A folder for everything that is written, methods to try, GPUs (0: a pretended one), scale."""

    folder: Path
    methods: tuple[str, ...]
    gpus: int
    quick: bool = False

    @property
    def pretended(self) -> bool:
        """Whether there is no GPU here."""
        return self.gpus == 0

    @property
    def small(self) -> bool:
        """Whether everything is as small as can be: on a CPU, or where it shall be quick."""
        return self.pretended or self.quick

    def plan(
        self, methods: tuple[str, ...], scenario: str = "extended-class", *settings: str
    ) -> list[CellSpec]:
        """Plan one cell of each method in a scenario of the suite `smoke`, or smaller ones.

        `settings` come before what makes them small.
        """
        given = {each.partition("=")[0]: each for each in settings}
        if self.small:
            small = [*SMALL, *(each for name in methods for each in _quick(name))]
            given = {each.partition("=")[0]: each for each in small} | given
        suite = compose(
            load_suite("smoke"),
            given.values(),
            dataset="synthetic" if self.small else None,
            scenarios=[scenario],
            methods=list(methods),
        )
        return make_plan(suite)

    def run(self, name: str, plan: list[CellSpec], report: Report) -> list[Outcome]:
        """Run cells into a folder of their own, in processes, on the device."""
        results = self.folder / name
        Store(results).open()
        engine = PretendedWorkers if self.pretended else Workers
        jobs = 1 if self.pretended else 0
        how = RunSettings(jobs=jobs, threads=jobs, engine=engine, retry_failed=True)
        return run(plan, results, _Told(report), how)

    @contextmanager
    def device(self) -> Iterator[torch.device]:
        """Give the device, under whose rules this process works in the block."""
        with _pretending() if self.pretended else ExitStack():
            yield torch.device("cuda", 0)


def _quick(method: str) -> list[str]:
    """Settings with which a method's fit takes no time."""
    quick = registry.method_class(method).quick
    return [f"{method}.{key}={json.dumps(value)}" for key, value in quick.items()]


@contextmanager
def _pretending() -> Iterator[None]:
    """Have results made on a pretended GPU in this process."""
    fabric = patch.object(make, "one_device", lambda accelerator: pretended_fabric())
    with pretended_gpu(), fabric:
        yield


_open = ExitStack()


def _begin_pretended(devices: int) -> None:
    begin_worker(devices)
    _open.enter_context(_pretending())  # while the process lives


class PretendedWorkers(Workers):
    """Worker processes, each of which pretends to have a GPU."""

    def __init__(
        self, jobs: int, threads: int, devices: int = 1, memory: Callable[[], int] = least_memory
    ) -> None:
        super().__init__(jobs, threads, devices, memory)
        self.here = False

    def _start(self, count: int) -> Any:
        return ProcessPoolExecutor(
            count,
            timeout=10,
            initializer=_begin_pretended,
            initargs=(self.devices,),
            env=variables(self.threads),
        )


class _Told:
    """Passes on what a run does; implements `bench.pipeline.outcomes.Watcher`."""

    def __init__(self, report: Report) -> None:
        self.report, self.runs, self.ended = report, 0, 0

    def begin(self, runs: int, models: int) -> None:
        self.runs = runs

    def progress(self, label: str, stage: str, done: int, total: int) -> None:
        self.report(f"{self.ended} of {self.runs} runs done, {label}: {stage}")

    def finish(self, outcome: Outcome) -> None:
        self.ended += isinstance(outcome.spec, CellSpec)
