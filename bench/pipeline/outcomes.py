"""What became of each task of a run, and who is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bench.pipeline.specs import CellSpec, ModelSpec

Task = ModelSpec | CellSpec  # what is run as a whole, in one process


@dataclass(frozen=True)
class Outcome:
    """What became of a model or a cell: `done`, `cached` or `failed`, with its error.

    `transient` failures are the machine's (a full disk): the next run tries again by itself.
    `notes` say what was found damaged and made anew.
    """

    spec: Task
    status: str
    seconds: float = 0.0
    error: str = ""
    traceback: str = ""
    transient: bool = False
    notes: tuple[str, ...] = ()


def label(spec: Task) -> str:
    """Name a run, or a model that several runs share, as people would."""
    if isinstance(spec, CellSpec):
        return str(spec.cell)
    parts = {"classes": spec.side.classes, "images": spec.side.images}
    seen = ", ".join(f"{share:.0%} of {what}" for what, share in parts.items() if share < 1)
    return f"base model · {seen or 'all data'} · {spec.recipe.backbone} · seed {spec.seed}"


class Watcher(Protocol):
    """Hears how a run goes; a display implements it."""

    def begin(self, runs: int, models: int) -> None:
        """Receive how many runs there will be, and how many models that several of them share."""

    def progress(self, label: str, stage: str, done: int, total: int) -> None:
        """Receive how far the stage in hand of a task is."""

    def finish(self, outcome: Outcome) -> None:
        """Learn that a task ended."""
