"""The command line: `python -m bench`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

import bench
from bench.cli.console import UNWRITABLE, console, errors, print_fault
from bench.cli.evaluate import command as evaluate
from bench.cli.help import Group, command
from bench.cli.options import (
    Against,
    Assignments,
    CellOptions,
    ParallelRunOptions,
    Results,
    RunOptions,
    Scenarios,
    Seeds,
    SuiteName,
    SuiteOptions,
    grouped,
    numbers,
    split,
)
from bench.cli.outputs import check_outputs, write_output
from bench.cli.rehearse import command as rehearse
from bench.cli.run import Interrupted, _interruptible, _run, send_suite
from bench.errors import BenchError, shown
from bench.output.texts import told
from bench.storage.results import Cell

DIFFERENT = 3  # exit status
OBJECTIVE: Literal["AUC_NFR_at_1"] = "AUC_NFR_at_1"  # of tuning, where none is asked for
app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bench {bench.__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Compare compatible-training methods while a gallery is being backfilled."""


Full = Annotated[bool, typer.Option("--full", help="Print every table in full, above the summary.")]


@command(
    app, "all", "--smoke", "--methods ract,bct --seeds 0,1", "--set epochs=5 --set ract.weight=2"
)
@grouped
def run_all(
    choice: CellOptions,
    options: ParallelRunOptions,
    full: Full = False,
    against: Against = None,
) -> None:
    """Run a suite (every method, scenario and seed), then compare its methods on one screen."""
    suite = choice.made()
    if against is not None and against not in suite.methods:
        raise BenchError(
            f"--against {against} is not a method of this run; expected one of "
            f"{', '.join(suite.methods)}"
        )
    _run(suite, options, full, against)


@command(app, "run", "ract --scenario extended-class --seed 0")
@grouped
def run_one(
    method: Annotated[str, typer.Argument(help="The method.")],
    subject: SuiteOptions,
    options: RunOptions,
    scenario: Annotated[str, typer.Option(help="The scenario.")] = "extended-class",
    seed: Annotated[int, typer.Option(help="The seed.")] = 0,
    full: Full = False,
) -> None:
    """Run one method in one scenario with one seed, also where it failed before."""
    chosen = subject.compose(scenarios=(scenario,), methods=(method,), seeds=(seed,))
    _run(chosen, options, full)


@command(app, "plan", "", "--suite sop", "--suite gldv2 --images-per-s 900")
@grouped
def show_plan(
    choice: CellOptions,
    options: ParallelRunOptions,
    full: Annotated[
        bool, typer.Option("--full", help="List every run, in place of a line per scenario.")
    ] = False,
    images_per_s: Annotated[
        float | None,
        typer.Option(
            "--images-per-s",
            min=0.001,
            help="Images/s at which the device trains; embedding takes a third of a step's time.",
        ),
    ] = None,
) -> None:
    """Show what `all` would run, what is cached, and the cost in images, hours and disk space."""
    if not math.isfinite(images_per_s or 0):
        raise BenchError(f"--images-per-s {images_per_s} is no rate; give a finite number")
    chosen = choice.made()
    from bench.costs.estimate import estimate, survey
    from bench.pipeline.naming import named_plan
    from bench.pipeline.runner import is_cached
    from bench.storage.store import Store

    store = Store(options.results)
    with suppress(BenchError):  # without the data, `survey` plans by published counts
        chosen, _ = named_plan(chosen, options.results)
    found = survey(chosen, store)
    runs = {spec.cell: is_cached(store, spec) for spec in found.plan}
    console.print(_runs(runs, f"{chosen.name} on {chosen.dataset}", full))
    console.print(estimate(found, store, options.settings(), images_per_s))


def _runs(cached: dict[Cell, bool], title: str, full: bool) -> Table:
    """Return a table of runs and whether they are cached: each, or a line per scenario."""
    if full:
        table = Table("scenario", "method", "seed", "state", title=title)
        for cell, known in cached.items():
            state = "[green]cached[/]" if known else "to run"
            table.add_row(cell.scenario, cell.method, str(cell.seed), state)
        return table
    table = Table("scenario", "runs", "cached", "to run", "methods to run", title=title)
    for scenario in dict.fromkeys(cell.scenario for cell in cached):
        missing = [c for c, known in cached.items() if c.scenario == scenario and not known]
        count = sum(cell.scenario == scenario for cell in cached)
        methods = ", ".join(dict.fromkeys(cell.method for cell in missing))
        counts = (count, count - len(missing), len(missing))
        table.add_row(scenario, *map(str, counts), methods)
    return table


@command(app, "tune", "bct,ract --trials 9 --seeds 0")
@grouped
def tune_methods(
    methods: Annotated[str, typer.Argument(help="Methods, separated by commas.")],
    subject: SuiteOptions,
    options: ParallelRunOptions,
    trials: Annotated[int, typer.Option(min=1, help="Settings to try per method.")] = 20,
    objective: Annotated[
        Literal["AUC_NFR_at_1", "AUC_mAP", "AUC_mAP-AUC_NFR_at_1"],
        typer.Option(help="Fewest negative flips, highest mAP, or highest difference of both."),
    ] = OBJECTIVE,
    scenarios: Scenarios = None,
    seeds: Seeds = None,
) -> None:
    """Search each method's settings with the same number of trials, on the validation split."""
    chosen = subject.compose(
        ("split=validation",),
        methods=split(methods),
        scenarios=split(scenarios),
        seeds=numbers(seeds),
    )
    # Another objective, other scenarios or seeds: another search, kept beside the former ones.
    asked = {"objective": objective, "scenarios": scenarios, "seeds": seeds}
    told = [f"{key}={value}" for key, value in asked.items() if value not in (None, OBJECTIVE)]
    chosen = chosen.model_copy(update={"name": "+".join([chosen.name, *told])})
    from bench.cli.progress import Display
    from bench.pipeline.runner import run
    from bench.pipeline.tuning import tune
    from bench.storage.mirror import open_mirror
    from bench.storage.store import Store
    from bench.tracking.tracker import Tracker

    results, settings = options.results, options.settings()
    Store(results, open_mirror(settings.mirror)).open()

    def run_plan(plan: Any) -> Any:
        with Display(console) as display:
            return run(plan, results, display, settings)

    fixed = {assignment.partition("=")[0] for assignment in subject.assignments or ()}
    with _interruptible():
        searches = tune(chosen, trials, objective, results, run_plan, fixed)
    tracker = Tracker(results, console)
    for search in searches:
        path = search.write(results)
        tracker.log_search(search)
        console.print(search.table())
        console.print(
            f"trials: {shlex.quote(str(path))}\nto use the best one: {search.use}\n",
            soft_wrap=True,
            markup=False,
        )
    if failed := [search.method for search in searches if search.chosen is None]:
        raise BenchError(f"every trial of {', '.join(failed)} failed; the table says why")


@command(app, "list", "methods", "datasets")
def show_list(
    what: Annotated[
        Literal["methods", "datasets", "scenarios", "suites", "all"], typer.Argument()
    ] = "all",
) -> None:
    """List methods, datasets, scenarios and suites; `list datasets` says which are ready here."""
    from bench.plugins import registry
    from bench.suites.loading import load_scenarios, load_suite, suite_names

    contents: dict[str, dict[str, str]] = {}
    for kind in ("methods", "datasets"):
        contents[kind] = {
            name: told(found.summary()) for name, found in registry.discover(kind).items()
        }
    contents["scenarios"] = {name: told(one.summary) for name, one in load_scenarios().items()}
    contents["suites"] = {name: told(load_suite(name)["summary"]) for name in suite_names()}
    for kind, entries in contents.items():
        if what in (kind, "all"):
            obstacles = _readiness() if what == "datasets" else None
            console.print(_listing(kind, entries, obstacles))
            console.print()
            for obstacle, names in _by_obstacle(obstacles or {}).items():
                console.print(f"not ready: {', '.join(names)}: {obstacle}", markup=False)
    if what == "datasets":
        console.print("`python -m bench data NAME` checks every file of a dataset")
    elif what == "all":
        console.print("`python -m bench list datasets` says which datasets are ready here")


def _readiness() -> dict[str, str]:
    from bench.authoring.readiness import readiness

    return readiness()


def _listing(kind: str, entries: dict[str, str], obstacles: dict[str, str] | None) -> Table:
    """List names with what they are and, where obstacles were looked for, what is ready."""
    table = Table(kind, *([""] if obstacles is None else ["", ""]), box=None, pad_edge=False)
    for name, summary in entries.items():
        state = [] if obstacles is None else [_state(obstacles[name])]
        table.add_row(f"[bold]{told(name)}[/]", *state, summary)
    return table


def _state(obstacle: str) -> str:
    return "[yellow]not ready[/]" if obstacle else "[green]ready[/]"


def _by_obstacle(obstacles: dict[str, str]) -> dict[str, list[str]]:
    """Group datasets by the sentence that says what is missing, each sentence once."""
    found: dict[str, list[str]] = {}
    for name, obstacle in obstacles.items():
        if obstacle:
            own = rf"(?<=['/]){re.escape(name)}\b|\b{re.escape(name)}(?=\.root)"
            found.setdefault(re.sub(own, "NAME", obstacle), []).append(name)
    return found


@command(
    app, "report", "--methods ract,bct --scenarios extended-class", "--columns 'M(n,n),AUC NFR@1'"
)
def write_report(
    suite: Annotated[
        str | None, typer.Option(help="A suite that has records; default: the only one.")
    ] = None,
    scenarios: Scenarios = None,
    methods: Annotated[str | None, typer.Option(help="Methods, separated by commas.")] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns of the LaTeX tables of scenarios: `M(n,n),AUC NFR@1`."),
    ] = None,
    against: Against = None,
    results: Results = Path("results"),
) -> None:
    """Make report, tables and figures of a suite from its records alone."""
    from bench.analysis.suite_records import only_suite
    from bench.report import build

    chosen = split(scenarios), split(methods), split(columns)
    page = build(results, suite or only_suite(results), *chosen, against)
    console.print(f"report: {shlex.quote(str(page))}", soft_wrap=True, markup=False)


@command(app, "compare", "default results/reference/default", "default default+epochs=5")
def compare_results(
    first: Annotated[
        str, typer.Argument(help="A results folder, a suite, records, a report or tables.")
    ],
    second: Annotated[str, typer.Argument(help="Another one.")],
    full: Annotated[
        bool, typer.Option("--full", help="List what differs within its interval, too.")
    ] = False,
    suite: Annotated[
        str | None, typer.Option(help="The suite of results folders; default: the only one.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Compare two results: which numbers differ, which beyond their interval, and what made them.

    Exit status 0 = nothing differs beyond its 95 % interval; 3 = something does.
    """
    from bench.report.compare import compare

    found = compare(first, second, results, suite)
    if found.beyond:
        console.print(found.table(found.beyond, "Outside the other's 95 % interval").rich())
        console.print()
    if full and found.within:
        console.print(found.table(found.within, "Different, within both intervals").rich())
        console.print()
    console.print("\n".join(found.sentences()), markup=False, soft_wrap=True)
    if found.beyond:
        raise typer.Exit(DIFFERENT)


@command(app, "power", "--quantity AUC_NFR_at_1 --against ract", "--difference 0.01")
def show_power(
    suite: Annotated[
        str | None, typer.Option(help="A suite that has records; default: the only one.")
    ] = None,
    quantity: Annotated[
        str, typer.Option(help="What methods are compared by: AUC_mAP, M_new_new, AUC_NFR_at_1 …")
    ] = "AUC_mAP",
    power: Annotated[
        float, typer.Option(min=0.05, max=0.999, help="Chance to find a true difference.")
    ] = 0.8,
    difference: Annotated[
        float | None,
        typer.Option(min=1e-9, max=1, help="True difference; by default the measured one."),
    ] = None,
    against: Annotated[str | None, typer.Option(help="Only pairs with this method.")] = None,
    results: Results = Path("results"),
) -> None:
    """Estimate how many seeds and groups of queries would make a difference significant."""
    from bench.analysis.suite_records import only_suite
    from bench.report.power import power_tables

    chosen = suite or only_suite(results)
    for table in power_tables(results, chosen, quantity, power, difference, against):
        console.print(table.rich())


command(
    app,
    "evaluate",
    "--queries-new qn.npy --gallery-old go.npy \\\n    --gallery-new gn.npy --relevance qrels.txt",
)(evaluate)


@command(app, "data", "sop --root ~/data/sop", "folder:pictures --full")
def check_data(
    name: Annotated[str, typer.Argument(help="The dataset, with its source if it has one.")],
    root: Annotated[Path | None, typer.Option(help="Folder that holds its files.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Decode every image.")] = False,
    ids: Annotated[
        Path | None,
        typer.Option(help="Write the id of every image to this file, as --embeddings needs them."),
    ] = None,
    assignments: Assignments = None,
    results: Results = Path("results"),
) -> None:
    """Check a dataset's files, counts and images; draw a sheet of queries and relevant items."""
    from bench.authoring import data_check
    from bench.plugins import registry
    from bench.storage.results import contact_sheet, dataset_cache
    from bench.suites.loading import read_assignments

    options = read_assignments(assignments or (), name.partition(":")[0])
    adapter = registry.make_dataset(name, options | ({"root": str(root)} if root else {}))
    if ids is not None:
        data_check.refuse_own_file(adapter, ids)
    cache = dataset_cache(results, name)
    report = data_check.check(adapter, name, cache, contact_sheet(results, name), full)
    console.print(report)
    if ids is not None:
        from bench.data.precomputed import write_listing

        write_listing(adapter.load(data_check.TILE, cache), ids)
        console.print(f"every image: {shlex.quote(str(ids))}", soft_wrap=True, markup=False)
    if not report.passed:
        raise BenchError(f"the dataset '{name}' is not complete; see above")


@command(app, "check", "ract", "my_method --set weight=2")
def check_method(
    method: Annotated[str, typer.Argument(help="The method to try.")],
    assignments: Assignments = None,
) -> None:
    """Test a method against the protocol, explain what fails, and time its training step."""
    from bench.authoring.contract import run as check
    from bench.suites.loading import read_assignments

    report = check(method, read_assignments(assignments or (), method))
    console.print(report)
    if not report.passed:
        count = len(report.faults)
        raise BenchError(
            f"{method} breaks the protocol in {count} way{'s' if count > 1 else ''}; see above"
        )


@command(app, "speed", "--json speed.json")
def measure_speed(
    suite: SuiteName = "default",
    method: Annotated[
        str, typer.Option(help="Method whose loss is trained next to the classifier.")
    ] = "ract",
    assignments: Assignments = None,
    threads: Annotated[
        int, typer.Option(min=0, help="CPU threads. 0: 1, or all cores with a GPU.")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each measurement.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all numbers to this file.")
    ] = None,
) -> None:
    """Measure speed with a suite's training configuration on random images."""
    from bench.costs.speed import measure
    from bench.execution.resources import resources
    from bench.suites.loading import compose, load_suite

    check_outputs((json_file,), [Path(suite)])
    chosen = compose(load_suite(suite), assignments or ())
    measured = measure(chosen, method, resources(1, threads)[1], repeats)
    console.print(measured.table())
    if json_file is not None:
        write_output(json_file, json.dumps(measured.content(), indent=1))


command(
    app, "rehearse", "--json rehearsal.json", "--quick --steps sweep,methods --methods bct,ract"
)(rehearse)


@command(app, "new", "method my_method")
def write_plugin(
    kind: Annotated[Literal["method"], typer.Argument(help="What to write.")],
    name: Annotated[str, typer.Argument(help="Its name: lower case, digits, underscores.")],
    how: Annotated[
        Literal["loss", "bridge"],
        typer.Option("--kind", help="A loss of training, or a bridge between two fixed models."),
    ] = "loss",
) -> None:
    """Write a working plug-in file to start from."""
    from bench.authoring.scaffold import new_method
    from bench.plugins.registry import ROOT

    path = new_method(name, ROOT / "methods", how)
    console.print(
        f"wrote {shlex.quote(str(path))}; now try `python -m bench check {name}`",
        soft_wrap=True,
        markup=False,
    )


@command(app, "track", "--suite default")
def send_records(
    results: Results = Path("results"),
    suite: Annotated[str | None, typer.Option(help="Only this suite (default: all).")] = None,
) -> None:
    """Upload records that MLflow lacks, for example after its server was unreachable."""
    from bench.storage.results import record_paths, records_folder
    from bench.tracking.connection import tracking_uri
    from bench.tracking.tracker import Tracker, comparison

    paths = record_paths(results, suite)
    if not paths:
        which = "" if suite is None else f" of suite '{suite}'"
        raise BenchError(f"there are no records{which} in {results}; run it first")
    tracker = Tracker(results, console)
    sent = sum(tracker.log(path) for path in paths)
    suites = sorted({path.relative_to(records_folder(results, "")).parts[0] for path in paths})
    for name in suites:
        try:
            send_suite(results, name, tracker)
        except BenchError as error:
            tracker.tell(comparison(name), str(error))
    place = shown(tracking_uri(results))
    console.print(f"{sent} of {len(paths)} runs are in MLflow at {told(place)}", soft_wrap=True)
    if tracker.unsent:
        reasons: dict[str, list[str]] = {}
        for what, reason in tracker.unsent.items():
            reasons.setdefault(reason, []).append(what)
        named = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
        raise BenchError(f"not in MLflow: {named}")


@command(app, "ui", "", "--port 5000")
def browse(
    results: Results = Path("results"),
    port: Annotated[int, typer.Option(min=0, help="Port of the server. 0: a free one.")] = 0,
) -> None:
    """Open the results in MLflow, on this machine only."""
    from bench.tracking.ui import serve

    serve(results, port, console)


def main() -> None:
    """Run the command line; what a person did wrong is one sentence and exit code 2 or 1.

    A fault of the harness itself is told in full, but for secrets.
    """
    sys.excepthook = print_fault
    try:
        app()
    except BenchError as error:
        errors.print(f"[red]error:[/] {told(shown(str(error)))}", soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = f" at {error.filename}" if error.filename else ""
        errors.print(
            f"[red]error:[/] {told(f'{error.strerror}{where}')}; what is finished is kept: "
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
