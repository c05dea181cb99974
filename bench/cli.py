"""The command line: `python -m bench`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import errno
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.errors import BenchError, shown
from bench.external import command as evaluate
from bench.options import (
    Assignments,
    Choice,
    Manner,
    Results,
    Scenarios,
    Seeds,
    Subject,
    SuiteName,
    TeamManner,
    grouped,
    split,
)

if TYPE_CHECKING:
    from bench.suite import Suite
    from bench.tracking import Tracker

app = typer.Typer(
    help="Compare compatible-training methods while a gallery is being backfilled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


@app.command("all")
@grouped
def run_all(choice: Choice, manner: TeamManner) -> None:
    """Run every cell of a suite, log it to MLflow and print a table per scenario."""
    _run(choice.made(), manner)


@app.command("run")
@grouped
def run_one(
    method: Annotated[str, typer.Argument(help="The method.")],
    subject: Subject,
    manner: Manner,
    scenario: Annotated[str, typer.Option(help="The scenario.")] = "extended-class",
    seed: Annotated[int, typer.Option(help="The seed.")] = 0,
) -> None:
    """Run a single cell, also one that failed before."""
    chosen = subject.compose(scenarios=(scenario,), methods=(method,), seeds=(seed,))
    _run(chosen, manner)


@app.command("plan")
@grouped
def show_plan(choice: Choice, manner: TeamManner) -> None:
    """Show what `all` would run, what is cached, and what it costs: images, hours and disk."""
    chosen = choice.made()
    from bench.estimate import estimate, survey
    from bench.runner import is_cached
    from bench.store import Store

    store = Store(manner.results)
    found = survey(chosen, store)
    table = Table("scenario", "method", "seed", "state", title=f"{chosen.name} on {chosen.dataset}")
    for spec in found.plan:
        state = "[green]cached[/]" if is_cached(store, spec) else "to run"
        table.add_row(spec.cell.scenario, spec.cell.method, str(spec.cell.seed), state)
    console.print(table)
    console.print(estimate(found, store, manner.conduct()))


@app.command("tune")
@grouped
def tune_methods(
    methods: Annotated[str, typer.Argument(help="Methods, separated by commas.")],
    subject: Subject,
    manner: TeamManner,
    trials: Annotated[int, typer.Option(min=1, help="Settings tried of each method.")] = 20,
    objective: Annotated[
        Literal["AUC_NFR_at_1", "AUC_mAP", "AUC_mAP-AUC_NFR_at_1"],
        typer.Option(help="Negative flips, fewest; mAP, highest; or their difference, highest."),
    ] = "AUC_NFR_at_1",
    scenarios: Scenarios = None,
    seeds: Seeds = None,
) -> None:
    """Search each method's settings with one budget, on the validation split alone."""
    chosen = subject.compose(
        ("split=validation",),
        methods=split(methods),
        scenarios=split(scenarios),
        seeds=split(seeds),
    )
    from bench.display import Display
    from bench.remote import open_mirror
    from bench.runner import run
    from bench.store import Store
    from bench.tracking import Tracker
    from bench.tuning import tune

    results, conduct = manner.results, manner.conduct()
    Store(results, open_mirror(conduct.mirror)).open()

    def run_plan(plan: Any) -> Any:
        with Display(console) as display:
            return run(plan, results, display, conduct)

    fixed = {assignment.partition("=")[0] for assignment in subject.assignments or ()}
    with _interruptible():
        searches = tune(chosen, trials, objective, results, run_plan, fixed)
    tracker = Tracker(results, console)
    for search in searches:
        path = search.write(results)
        tracker.log_search(search)
        console.print(search.table())
        console.print(f"trials: {path}\nto use the chosen one: {search.use}\n", soft_wrap=True)
    if failed := [search.method for search in searches if search.chosen is None]:
        raise BenchError(f"every trial failed of {', '.join(failed)}; the table says why")


@app.command("list")
def show_list(
    what: Annotated[
        Literal["methods", "datasets", "scenarios", "suites", "all"], typer.Argument()
    ] = "all",
) -> None:
    """List methods, data sets, scenarios and suites; `list datasets` says which are ready here."""
    from bench import registry
    from bench.suite import load_scenarios, load_suite, suite_names

    contents: dict[str, dict[str, str]] = {}
    for kind in ("methods", "datasets"):
        contents[kind] = {
            name: escape(found.summary()) for name, found in registry.discover(kind).items()
        }
    contents["scenarios"] = {name: escape(one.summary) for name, one in load_scenarios().items()}
    contents["suites"] = {name: escape(load_suite(name)["summary"]) for name in suite_names()}
    if what == "datasets":
        from bench.readiness import readiness

        for name, obstacle in readiness().items():
            state = f"[yellow]{escape(obstacle)}[/]" if obstacle else "[green]ready[/]"
            contents["datasets"][name] += f"\n{state}"
    for kind, entries in contents.items():
        if what in (kind, "all"):
            table = Table(kind, "", box=None, pad_edge=False, title_justify="left")
            for name, summary in entries.items():
                table.add_row(f"[bold]{escape(name)}[/]", summary)
            console.print(table)
            console.print()
    if what == "datasets":
        console.print("every file is checked by `python -m bench data NAME`")
    elif what == "all":
        console.print("which data sets are ready on this machine: `python -m bench list datasets`")


@app.command("report")
def write_report(suite: SuiteName = "default", results: Results = Path("results")) -> None:
    """Rebuild tables, figures and report.html of a suite from its records alone."""
    from bench.report import build

    console.print(f"report: {build(results, suite)}", soft_wrap=True)


app.command("evaluate")(evaluate)


@app.command("data")
def check_data(
    name: Annotated[str, typer.Argument(help="The data set, with its source if it has one.")],
    root: Annotated[Path | None, typer.Option(help="Folder that holds its files.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Decode every image.")] = False,
    ids: Annotated[
        Path | None, typer.Option(help="List every image here, as --embeddings has to name it.")
    ] = None,
    assignments: Assignments = None,
    results: Results = Path("results"),
) -> None:
    """Check a data set's files, counts and images, and make a contact sheet of its answers."""
    from bench import data_check, registry
    from bench.suite import read_assignments

    options = read_assignments(assignments or (), name.partition(":")[0])
    adapter = registry.make_dataset(name, options | ({"root": str(root)} if root else {}))
    sheet = results / "sheets" / f"{registry.dataset_label(name)}.png"
    report = data_check.check(adapter, name, results / "cache" / "data", sheet, full)
    console.print(report)
    if ids is not None:
        from bench.features import write_listing

        write_listing(adapter.load(data_check.TILE, results / "cache" / "data"), ids)
        console.print(f"every image: {ids}", soft_wrap=True)
    if not report.passed:
        raise BenchError(f"the data set '{name}' is not complete; see what is said above")


@app.command("check")
def check_method(
    method: Annotated[str, typer.Argument(help="The method to try.")],
    assignments: Assignments = None,
) -> None:
    """Try a method in every situation, explain what it breaks, and time its training step."""
    from bench.check import run as check
    from bench.suite import read_assignments

    report = check(method, read_assignments(assignments or (), method))
    console.print(report)
    if not report.passed:
        broken = sum(1 for found in report.found.values() if found)
        raise BenchError(f"{method} breaks {broken} of {len(report.found)} rules of the protocol")


@app.command("speed")
def measure_speed(
    suite: SuiteName = "default",
    method: Annotated[str, typer.Option(help="A method, trained beside the classifier.")] = "ract",
    assignments: Assignments = None,
    threads: Annotated[int, typer.Option(min=0, help="0 is one, or all cores beside a GPU.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each measurement.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write everything to a file, too.")
    ] = None,
) -> None:
    """Measure a suite's recipe on random images: training, embedding, backfill, searches."""
    from bench.speed import measure
    from bench.store import write_text
    from bench.suite import compose, load_suite
    from bench.workers import resources

    chosen = compose(load_suite(suite), assignments or ())
    measured = measure(chosen, method, resources(1, threads)[1], repeats)
    console.print(measured.table())
    if json_file is not None:
        write_text(json_file, json.dumps(measured.content(), indent=1))


@app.command("new")
def write_plugin(
    kind: Annotated[Literal["method"], typer.Argument(help="What to write.")],
    name: Annotated[str, typer.Argument(help="Its name: lower case, digits, underscores.")],
) -> None:
    """Write a working file with the places to fill in; it is discovered at once."""
    from bench.registry import ROOT
    from bench.scaffold import new_method

    path = new_method(name, ROOT / "methods")
    console.print(f"wrote {path}; now try `python -m bench check {name}`", soft_wrap=True)


@app.command("track")
def send_records(
    results: Results = Path("results"),
    suite: Annotated[str, typer.Option(help="Only this suite; all by default.")] = "*",
) -> None:
    """Send records to MLflow that are not there yet, say after its server was unreachable."""
    from bench.tracking import Tracker, tracking_uri

    paths = sorted((results / "records").glob(f"{suite}/*/*/*/seed-*.parquet"))
    if not paths:
        raise BenchError(f"there are no records of suite '{suite}' in {results}; run it first")
    tracker = Tracker(results, console)
    place = shown(tracking_uri(results))
    sent = sum(tracker.log(path) for path in paths)
    if tracker.broken:
        raise BenchError(f"{sent} of {len(paths)} cells are in MLflow at {place}")
    console.print(f"{sent} cells are in MLflow at {place}", soft_wrap=True)


@app.command("ui")
def browse(
    results: Results = Path("results"),
    port: Annotated[int, typer.Option(min=0, help="0 takes a free one.")] = 0,
) -> None:
    """Browse the results in MLflow, on this machine only."""
    from bench.interface import serve

    serve(results, port, console)


def _run(suite: Suite, manner: Manner) -> None:
    """Run a suite, print its tables and the next commands; exit 1 when a cell failed."""
    from bench.display import Display
    from bench.plan import make_plan
    from bench.remote import open_mirror
    from bench.runner import label, run
    from bench.store import Store
    from bench.tracking import Tracker

    results, conduct = manner.results, manner.conduct()
    Store(results, open_mirror(conduct.mirror)).open()
    plan = make_plan(suite)
    with _interruptible(), Display(console) as display:
        tracker = Tracker(results, console, display)
        outcomes = run(plan, results, tracker, conduct)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if len(failed) < len(outcomes):
        _conclude(results, suite.name, tracker)
    if failed:
        causes: dict[str, list[str]] = {}
        for outcome in failed:
            causes.setdefault(outcome.error, []).append(label(outcome.spec))
        listed = "; ".join(f"{', '.join(names)}: {error}" for error, names in causes.items())
        raise BenchError(f"{len(failed)} of {len(outcomes)} cells failed: {listed}")


def _conclude(results: Path, suite: str, tracker: Tracker) -> None:
    """Print a suite's tables, log what its cells say together, and say where to look next."""
    from filelock import FileLock

    from bench.records import left_out, suite_key
    from bench.report import build
    from bench.report.kept import scenario_tables, scenarios_of

    for table in scenario_tables(results, suite):
        console.print(table.rich())
        console.print()
    for sentence in left_out(results, suite):
        console.print(f"[yellow]{escape(sentence)}[/]", soft_wrap=True)
    key = suite_key(results, suite)
    # Of several runs at once, one builds the report and logs it before another replaces it.
    with FileLock(results / "cache" / f"conclusion-{suite}.lock"):
        if not tracker.has_suite(suite, key) and not tracker.broken:
            page = build(results, suite)
            tracker.log_suite(suite, scenarios_of(results, suite, key), key, page.parent)
    _print_next(results, suite)


def _print_next(results: Path, suite: str) -> None:
    """Say where to look next, in commands that can be pasted."""
    from bench.tracking import tracking_uri

    where = "" if results == Path("results") else f" --results {results}"
    console.print("\n[bold]Next[/]", soft_wrap=True)
    console.print(f"  python -m bench report --suite {suite}{where}", soft_wrap=True)
    uri = tracking_uri(results)
    if uri.startswith("http"):
        console.print(f"  or open {shown(uri)}", soft_wrap=True)
    else:
        console.print(f"  mlflow ui --backend-store-uri {shown(uri)}", soft_wrap=True)


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM while a suite runs, with the exit code that says so."""


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let a signal unwind the block once: a second must not break the cleaning up."""

    def interrupt(number: int, frame: Any) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(128 + number)

    former = {n: signal.signal(n, interrupt) for n in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def main() -> None:
    """Run the command line; what a person did wrong is one sentence and exit code 2 or 1."""
    try:
        app()
    except BenchError as error:
        errors.print(f"[red]error:[/] {escape(shown(str(error)))}", soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = f" at {error.filename}" if error.filename else ""
        errors.print(
            f"[red]error:[/] {escape(f'{error.strerror}{where}')}; what is finished is kept: "
            "make it possible to write, and give the same command again",
            soft_wrap=True,
        )
        sys.exit(1)
    except Interrupted as interrupted:
        errors.print(
            "interrupted: what is finished is kept; the same command goes on from there",
            soft_wrap=True,
        )
        sys.exit(interrupted.args[0])
