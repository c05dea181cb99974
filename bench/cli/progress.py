"""What a person sees while a suite runs: bars in a terminal, plain lines in a pipe."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from bench.output.texts import told
from bench.pipeline.outcomes import Outcome, label
from bench.pipeline.specs import CellSpec

SIGNS = {"done": "[green]✓[/]", "cached": "[dim]=[/]", "failed": "[red]✗[/]"}
# Widths of a live line, which fits 80 columns with the spaces between.
NAME, BAR, COUNT, TIMES = 44, 10, 9, 13


@dataclass
class Remaining:
    """Estimates the time that a run still takes, from what was made and what is still to do.

    What was cached costs nothing and says nothing. Runs and shared models take different times; as
    long as none of a kind has ended, it is taken to last as long as the other.
    """

    started: float
    left: dict[str, int] = field(default_factory=dict)
    spent: dict[str, list[float]] = field(default_factory=lambda: {"model": [], "run": []})

    def ended(self, kind: str, seconds: float | None) -> None:
        """Learn that one has ended, after `seconds` of work; None: there was none to do."""
        self.left[kind] -= 1
        if seconds is not None:
            self.spent[kind].append(seconds)

    def seconds(self, now: float) -> float | None:
        """Return the seconds that are left; None while nothing was made, and at the end."""
        made = [each for spent in self.spent.values() for each in spent]
        if not sum(made) or not any(self.left.values()):
            return None
        mean = sum(made) / len(made)
        work = sum(
            count * (sum(spent) / len(spent) if (spent := self.spent[kind]) else mean)
            for kind, count in self.left.items()
        )
        return (now - self.started) * work / sum(made)  # as many at once as until now


class Display(AbstractContextManager["Display"]):
    """Shows a run; implements `bench.pipeline.outcomes.Watcher`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            TextColumn(
                "{task.description}",
                table_column=Column(width=NAME, no_wrap=True, overflow="ellipsis"),
            ),
            BarColumn(bar_width=BAR),
            TextColumn("{task.fields[count]}", table_column=Column(width=COUNT, no_wrap=True)),
            _Times(table_column=Column(width=TIMES, no_wrap=True)),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.rows: dict[str, TaskID] = {}
        self.remaining = Remaining(time.monotonic())
        self.runs = self.ended = self.cached = 0

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._tell_cached()
        self.bars.stop()

    def begin(self, runs: int, models: int) -> None:
        """Show a bar for all runs."""
        self.runs, self.ended = runs, 0
        self.remaining = Remaining(time.monotonic(), {"run": runs, "model": models})
        self.whole = self.bars.add_task("[bold]all runs[/]", total=runs, count="", left="")

    def progress(self, label: str, stage: str, done: int, total: int) -> None:
        """Show a bar for a task in hand."""
        if label not in self.rows:
            self.rows[label] = self.bars.add_task("", total=total, count="", left="")
        self.bars.update(
            self.rows[label],
            description=f"{told(label)} · {stage}",
            completed=done,
            total=total,
            count=f"{done:,}/{total:,}" if total < 10_000 else f"{done / total:.0%}",
        )

    def finish(self, outcome: Outcome) -> None:
        """Replace a task's bar by a line; cached runs are told in one."""
        name, is_run = label(outcome.spec), isinstance(outcome.spec, CellSpec)
        if name in self.rows:
            self.bars.remove_task(self.rows.pop(name))
        self.ended += is_run
        worked = outcome.seconds if outcome.status == "done" else None
        self.remaining.ended("run" if is_run else "model", worked)
        left = self.remaining.seconds(time.monotonic())
        shown = "" if left is None else f"{duration(left)} left"
        self.bars.update(
            self.whole, completed=self.ended, count=f"{self.ended}/{self.runs}", left=shown
        )
        if outcome.status == "cached":
            self.cached += 1
        else:
            self._tell_cached()
            self._tell(outcome, name, is_run, shown)
        for note in outcome.notes:
            self._print(f"[yellow]warning:[/] {told(note)}")

    def _tell(self, outcome: Outcome, name: str, is_run: bool, left: str) -> None:
        text = f"{SIGNS[outcome.status]} {told(name)}"
        if outcome.status == "done":
            text += f" [dim]· {duration(outcome.seconds)}[/]"
        if outcome.status == "failed":
            text += f": {told(outcome.error)}"
        if not self.console.is_terminal:
            place = f"[{self.ended}/{self.runs}]" if is_run else " " * len(f"[0/{self.runs}]")
            text = (
                f"{told(place)} {text}{f' · {left}' if left and outcome.status == 'done' else ''}"
            )
        self._print(text)

    def _tell_cached(self) -> None:
        if self.cached:
            self._print(f"{SIGNS['cached']} {self.cached} of {self.runs} runs are cached")
        self.cached = 0

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


class _Times(ProgressColumn):
    """Time left of all runs; time since a task began."""

    def render(self, task: Task) -> Text:
        """Return one of both."""
        return Text(task.fields["left"] or duration(task.elapsed or 0), style="cyan")


def duration(seconds: float) -> str:
    """Write seconds as people say them: 6.2 s, 7 min 21 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02} min"
