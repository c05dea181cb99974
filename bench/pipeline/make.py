"""Making what a spec describes: its needs first, then its own stage, each at most once."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from bench.pipeline.finished import FILES, Finished
from bench.pipeline.specs import CellSpec, ModelSpec, Spec
from bench.pipeline.stages import DISTRIBUTED, Means, checkpoint_of, stage_of
from bench.storage.files import publish
from bench.storage.mirror import Mirror, open_mirror
from bench.storage.store import Store
from bench.training.checkpoint import DEFAULT_SECONDS
from bench.training.distributed import Report, launch, one_device


def quiet(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""


class Maker:
    """Makes results in one results folder, in this process or in one process per device.

    Models are trained and images embedded on `devices` at once; `readers` more processes decode
    images ahead. A training keeps its state every `checkpoint_seconds`.
    """

    def __init__(
        self,
        store: Store,
        report: Report = quiet,
        accelerator: str = "auto",
        checkpoint_seconds: float = DEFAULT_SECONDS,
        devices: int = 1,
        readers: int = 0,
    ) -> None:
        self.store, self.report = store, report
        self.accelerator, self.devices, self.readers = accelerator, devices, readers
        self.checkpoint_seconds = checkpoint_seconds
        self.fabric = one_device(accelerator)
        self.finished = Finished(store, self.fabric.device)

    @property
    def means(self) -> Means:
        """With what a stage works in this process."""
        return Means(self.fabric, self.report, self.checkpoint_seconds, self.readers)

    def make(self, spec: Spec) -> Path:
        """Return the folder of a result; make it and what it needs first where it is not there."""
        spec = self.finished.distinct(spec)
        with self.store.making(spec.stage, spec.key, FILES[type(spec)]) as work:
            if work is not None:
                for need in spec.needs():
                    self.make(need)
                started = time.time()
                made = self._fill(spec, work.folder)
                work.metadata = {**made, "span": {"started": started, "ended": time.time()}}
        if isinstance(spec, ModelSpec):
            checkpoint_of(spec, self.finished, self.means).remove()
        return self.finished.folder(spec)

    def records(self, spec: CellSpec) -> Path:
        """Make the records of a run, put them where people look for them, and return their path."""
        place = self.make(spec)
        for name, target in spec.cell.published(self.store.results).items():
            publish(place / name, target)
        return spec.cell.record_path(self.store.results)

    def _fill(self, spec: Spec, folder: Path) -> dict[str, Any]:
        if isinstance(spec, ModelSpec):
            checkpoint_of(spec, self.finished, self.means).bring()
        if self.devices > 1 and isinstance(spec, DISTRIBUTED):
            settings = (self.checkpoint_seconds, self.readers)
            place = (self.store.results, self.store.mirror)
            arguments: tuple[Any, ...] = (*place, *settings, spec, folder)
            metadata, notes = launch(
                self.devices, self.accelerator, self.report, _on_rank, *arguments
            )
            self.store.notes.extend(notes)
        else:
            made = stage_of(spec)(spec, self.finished, self.means, folder)
            metadata = made.model_dump(mode="json")
        return dict(metadata)


def _on_rank(
    fabric: Fabric,
    report: Report,
    results: Path,
    mirror: Mirror | None,
    checkpoint_seconds: float,
    readers: int,
    spec: Spec,
    folder: Path,
) -> tuple[dict[str, Any], list[str]]:
    """Do this process's part of a stage; return its metadata, and what was found damaged."""
    store = Store(results, mirror, watched=True)
    means = Means(fabric, report, checkpoint_seconds, readers)
    made = stage_of(spec)(spec, Finished(store, fabric.device), means, folder)
    return made.model_dump(mode="json"), store.notes


@lru_cache(maxsize=1)
def maker_of_process(
    results: Path,
    mirror: str | None,
    checkpoint_seconds: float,
    devices: int,
    readers: int,
) -> Maker:
    """Return the maker of this process: a dataset that one task has loaded, the next one finds."""
    store = Store(results, open_mirror(mirror), watched=True)
    return Maker(store, quiet, "auto", checkpoint_seconds, devices, readers)
