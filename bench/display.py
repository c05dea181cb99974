"""What a person sees while a suite runs: bars in a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.runner import Outcome, label

SIGNS = {"done": "[green]✓[/]", "cached": "[dim]=[/]", "failed": "[red]✗[/]"}


class Display(AbstractContextManager["Display"]):
    """Shows a run; implements `bench.runner.Watcher`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.rows: dict[str, TaskID] = {}
        self.started = time.monotonic()
        self.total = self.ended = 0

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def begin(self, total: int) -> None:
        """Show a bar for the whole suite."""
        self.total = total
        self.whole = self.bars.add_task("[bold]suite[/]", total=total)

    def progress(self, label: str, stage: str, done: int, total: int) -> None:
        """Show a bar for a task in hand."""
        if label not in self.rows:
            self.rows[label] = self.bars.add_task(label, total=total)
        self.bars.update(
            self.rows[label], description=f"{label} · {stage}", completed=done, total=total
        )

    def finish(self, outcome: Outcome) -> None:
        """Replace a task's bar by a line."""
        name = label(outcome.spec)
        if name in self.rows:
            self.bars.remove_task(self.rows.pop(name))
        self.ended += 1
        self.bars.update(self.whole, completed=self.ended)
        text = f"{SIGNS[outcome.status]} {name}"
        if outcome.status == "done":
            text += f" [dim]{outcome.seconds:.1f} s[/]"
        if outcome.status == "failed":
            text += f": {escape(outcome.error)}"
        if not self.console.is_terminal:
            text = f"[{self.ended}/{self.total}] {outcome.status}: {text}, {self._left()}"
        if outcome.status != "cached":
            self.console.print(text, highlight=False, soft_wrap=True)
        for note in outcome.notes:
            self.console.print(
                f"[yellow]warning:[/] {escape(note)}", highlight=False, soft_wrap=True
            )

    def _left(self) -> str:
        elapsed = time.monotonic() - self.started
        left = elapsed / self.ended * (self.total - self.ended)
        return f"{elapsed:.0f} s elapsed, about {left:.0f} s left"
