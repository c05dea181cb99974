"""Running a suite from the command line: progress, then one screen of what it says."""

from __future__ import annotations

import shlex
import signal
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.console import console, errors
from bench.cli.options import (
    RunOptions,
)
from bench.errors import BenchError, command, shown
from bench.output.texts import told
from bench.storage.files import lock
from bench.storage.results import lock_path

if TYPE_CHECKING:
    from bench.analysis.suite_records import Choice
    from bench.suites.schema import Suite
    from bench.tracking.tracker import Tracker


def _run(suite: Suite, options: RunOptions, full: bool = False, against: str | None = None) -> None:
    """Run a suite and print what it says on one screen; raise BenchError when a run failed."""
    from bench.analysis.suite_records import Choice, keep_order
    from bench.cli.progress import Display
    from bench.pipeline.naming import named_plan
    from bench.pipeline.outcomes import label
    from bench.pipeline.runner import run
    from bench.storage.mirror import open_mirror
    from bench.storage.store import Store
    from bench.tracking.tracker import Tracker

    started, results, settings = time.monotonic(), options.results, options.settings()
    Store(results, open_mirror(settings.mirror)).open()
    options.settle_precision(suite)
    asked, (suite, plan) = suite.name, named_plan(suite, results)
    if suite.name != asked:
        console.print(
            f"[yellow]note:[/] {told(str(results))} holds records of '{told(asked)}' that were "
            "made with other code, packages, data or settings; they stay as they are, and these "
            f"runs are '{told(suite.name)}'",
            soft_wrap=True,
        )
    keep_order(results, suite)
    with _interruptible(), Display(console) as display:
        tracker = Tracker(results, console, display)
        outcomes = run(plan, results, tracker, settings)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if len(failed) < len(outcomes):
        datasets = tuple(dict.fromkeys(spec.cell.dataset for spec in plan))
        choice = Choice(suite.scenarios, suite.methods, suite.seeds, datasets)
        _conclude(results, suite.name, tracker, choice, full, started, against)
    if failed:
        causes: dict[str, list[str]] = {}
        for outcome in failed:
            causes.setdefault(outcome.error, []).append(label(outcome.spec))
        listed = "; ".join(f"{', '.join(names)}: {error}" for error, names in causes.items())
        raise BenchError(f"{len(failed)} of {len(outcomes)} runs failed: {listed}")


def _conclude(
    results: Path,
    suite: str,
    tracker: Tracker,
    choice: Choice,
    full: bool,
    started: float,
    against: str | None,
) -> None:
    """State what some runs of a suite gave, log what all its runs say, and say where to read on."""
    from bench.analysis.suite_records import EVERYTHING, suite_paths
    from bench.cli.activity import Activity
    from bench.cli.progress import duration
    from bench.report.cached import summary

    paths = suite_paths(results, suite)
    chosen = [path for path in paths if choice.holds(path)]
    # What is shown and what is reported are compared once where they are the same.
    shown_runs = choice.among(chosen) if len(chosen) < len(paths) else EVERYTHING
    with Activity(errors) as activity:
        activity.report("comparing the methods")
        found = summary(results, suite, shown_runs, against)
        activity.report("writing the report, sending the comparison to MLflow")
        page = send_suite(results, suite, tracker, against)
    if full:
        for table in found.tables:
            console.print(table.rich())
            console.print()
    spent = duration(time.monotonic() - started)
    lines = [*_wrapped(suite, found.screen.what, spent), "", *found.screen.lines]
    more = f"   all {len(paths)} runs of the suite" if len(chosen) < len(paths) else ""
    lines += [*found.left_out, "", f"report   {shlex.quote(str(page))}{more}"]
    lines += [f"mlflow   {_where_to_browse(results)}"]
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def send_suite(results: Path, suite: str, tracker: Tracker, against: str | None = None) -> Path:
    """Log what a suite's records say together, unless it is logged; return its report."""
    from bench.analysis.suite_records import suite_key
    from bench.report import up_to_date
    from bench.report.cached import scenarios_of

    key = suite_key(results, suite)
    # Of several runs at once, one builds the report and logs it before another replaces it.
    with lock(lock_path(results, f"conclusion-{suite}")):
        page = up_to_date(results, suite, against)
        if not tracker.has_suite(suite, key) and not tracker.broken:
            tracker.log_suite(suite, scenarios_of(results, suite, key), key, page.parent)
    return page


def _wrapped(*parts: str) -> list[str]:
    """Join parts to lines of at most 80 columns; a part is torn only where it is longer."""
    lines = [parts[0]]
    for part in parts[1:]:
        joined = f"{lines[-1]} · {part}"
        lines = [*lines[:-1], joined] if len(joined) <= 80 else [*lines, f"  {part}"]
    return [piece for line in lines for piece in textwrap.wrap(line, 80, break_long_words=False)]


def _where_to_browse(results: Path) -> str:
    """The command that opens MLflow, or the address of a server of one's own."""
    from bench.tracking.connection import tracking_uri

    uri = tracking_uri(results)
    return shown(uri) if uri.startswith("http") else command("ui", results=results)


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM while a suite runs, with the exit code that says so."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Unwind the block once at a signal: a second must not break the cleaning up."""

    def interrupt(number: int, frame: Any) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(128 + number)

    former = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)
