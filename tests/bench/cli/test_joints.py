"""From the command line to the functions behind it: every option, one at a time, reaches its place.

An option is given away from its default; what the command hands on has to be what was given, and
something else without it.
"""

import inspect
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from click.testing import CliRunner

import bench.cli.run
from bench.analysis.suite_records import Choice, suite_paths
from bench.authoring import contract, data_check, scaffold
from bench.cli.commands import app
from bench.cli.console import console
from bench.cli.options import ParallelRunOptions
from bench.costs import estimate, speed
from bench.errors import BenchError
from bench.execution import cluster
from bench.pipeline import naming, runner, tuning
from bench.pipeline.specs import CellSpec
from bench.plugins import registry
from bench.rehearsal import rehearse
from bench.report import cached, compare, power
from bench.report.table import Column, Screen, Table
from bench.storage import results as places
from bench.storage.results import Cell
from bench.tracking import tracker, ui
from tests.command import TINY

ROOT = Path(__file__).resolve().parents[3]
SUITE_OF_TESTS = TINY[:2]
SCENARIOS = ("open-class", "wider-embedding")
SKIPPING = {"skip_corrupt": True}


class SeenError(BenchError):
    """What a command is for was reached."""


@pytest.fixture
def seen(monkeypatch, tmp_path):
    """Spies in the places of functions: what each was called with, by `module.name`."""
    found = {}

    def spy(module, name, answer=None):
        original, place = getattr(module, name), f"{module.__name__.rpartition('.')[2]}.{name}"

        def called(*arguments, **options):
            bound = inspect.signature(original).bind(*arguments, **options)
            bound.apply_defaults()
            found[place] = dict(bound.arguments)
            if answer is None:
                raise SeenError(place)
            return answer(**bound.arguments)

        monkeypatch.setattr(module, name, called)

    spy(naming, "named_plan", lambda suite, results: (suite, []))
    spy(runner, "run")
    spy(tuning, "tune", lambda run, **_: run([]))
    spy(estimate, "survey", lambda suite, store: estimate.Survey([], None))
    spy(estimate, "estimate")
    spy(bench.report, "build")
    spy(compare, "compare")
    spy(power, "power_tables")
    spy(registry, "make_dataset", lambda name, options: (name, options))
    spy(data_check, "refuse_own_file", lambda adapter, output: None)
    spy(data_check, "check")
    spy(contract, "run")
    spy(speed, "measure")
    spy(rehearse, "rehearse")
    spy(scaffold, "new_method")
    spy(places, "record_paths")
    spy(ui, "serve")
    monkeypatch.setattr(tracker, "Tracker", lambda *_: None)
    monkeypatch.setattr(ParallelRunOptions, "settle_precision", lambda *_: None)  # asks a cluster
    monkeypatch.chdir(tmp_path)
    return found


def suite_of(seen):
    return seen["tuning.tune" if "tuning.tune" in seen else "naming.named_plan"]["suite"]


def settings_of(seen):
    return seen["runner.run" if "runner.run" in seen else "estimate.estimate"]["settings"]


def results_of(seen):
    return seen["runner.run" if "runner.run" in seen else "naming.named_plan"]["results"]


def suite(name):
    return lambda seen: getattr(suite_of(seen), name)


def recipe(name):
    return lambda seen: getattr(suite_of(seen).recipe, name)


def settings(name):
    return lambda seen: getattr(settings_of(seen), name)


def engine(seen):
    found = settings_of(seen).engine
    return (found.func, found.keywords) if hasattr(found, "func") else found


def measured_suite(name):
    return lambda seen: getattr(seen["speed.measure"]["suite"], name)


def handed(place, name):
    return lambda seen: seen[place][name]


# option → what is given (nothing for a flag), where it arrives, as what
SUITE = {
    "--suite": (ROOT / "tests" / "tiny.toml", suite("name"), "tiny"),
    "--dataset": ("folder:pictures", suite("dataset"), "folder:pictures"),
    "--skip-corrupt": (None, lambda seen: suite_of(seen).options.get("icons"), SKIPPING),
    "--backbone": ("timm:test_vit", recipe("backbone"), "test_vit"),
    "--pretrained": (None, recipe("pretrained"), True),
    "--weights": ("w.pt", lambda seen: recipe("weights")(seen) == Path("w.pt").absolute(), True),
    "--embeddings": (
        "v.npz",
        lambda seen: recipe("embeddings")(seen) == Path("v.npz").absolute(),
        True,
    ),
    "--set": ("epochs=7", recipe("epochs"), 7),
}
SOME = {
    "--scenarios": (
        "open-class,extended-data",
        suite("scenarios"),
        ("open-class", "extended-data"),
    ),
    "--seeds": ("4,2", suite("seeds"), (4, 2)),
}
CELLS = {
    **SUITE,
    **SOME,
    "--methods": ("ract,l2", suite("methods"), ("ract", "l2")),
    "--orders": ("margin-prototypes", suite("orders"), ("margin-prototypes",)),
    "--smoke": (None, lambda seen: suite_of(seen).name.split("+")[0], "smoke"),
}
ONE = {
    "--results": ("elsewhere", results_of, Path("elsewhere")),
    "--threads": (3, settings("threads"), 3),
    "--cell-timeout": (77, settings("cell_timeout"), 77.0),
    "--checkpoint-every": (5, settings("checkpoint_seconds"), 5.0),
    "--devices": (2, settings("devices"), 2),
    "--readers": (4, settings("readers"), 4),
}
MANY = {
    **ONE,
    "--jobs": (6, settings("jobs"), 6),
    "--retry-failed": (None, settings("retry_failed"), True),
    "--engine": ("ray", engine, (cluster.Cluster, {"address": None})),
    "--address": ("head:1 --engine ray", engine, (cluster.Cluster, {"address": "head:1"})),
    "--mirror": ("memory://nobody", settings("mirror"), "memory://nobody"),
}
REPORT = {
    f"--{name}": (
        f"{name}-a,{name}-b",
        handed("report.build", name),
        (f"{name}-a", f"{name}-b"),
    )
    for name in ("scenarios", "methods", "columns")
}
COMMANDS = {
    "all": ("", {**CELLS, **MANY}),
    "run": (
        "bct",
        {
            **SUITE,
            **ONE,
            "method": ("ract", suite("methods"), ("ract",)),
            "--scenario": ("open-class", suite("scenarios"), ("open-class",)),
            "--seed": (5, suite("seeds"), (5,)),
        },
    ),
    "plan": (
        "",
        {
            **CELLS,
            **MANY,
            "--images-per-s": (12.5, handed("estimate.estimate", "images_per_s"), 12.5),
        },
    ),
    "tune": (
        "bct",
        {
            **SUITE,
            **SOME,
            **MANY,
            "--set": (
                "epochs=7",  # which is not searched, then
                lambda seen: (recipe("epochs")(seen), *seen["tuning.tune"]["fixed"]),
                (7, "epochs"),
            ),
            "methods": ("ract,l2", suite("methods"), ("ract", "l2")),
            "--trials": (3, handed("tuning.tune", "budget"), 3),
            "--objective": ("AUC_mAP", handed("tuning.tune", "objective"), "AUC_mAP"),
        },
    ),
    "report": (
        "--suite mine",
        {
            **REPORT,
            "--suite": ("other", handed("report.build", "suite"), "other"),
            "--against": ("bct", handed("report.build", "against"), "bct"),
            "--results": ("elsewhere", handed("report.build", "results"), Path("elsewhere")),
        },
    ),
    "compare": (
        "one two",
        {
            "first": ("three two", handed("compare.compare", "one"), "three"),
            "second": ("one three", handed("compare.compare", "two"), "three"),
            "--suite": ("mine", handed("compare.compare", "suite"), "mine"),
            "--results": ("elsewhere", handed("compare.compare", "results"), Path("elsewhere")),
        },
    ),
    "power": (
        "--suite mine",
        {
            "--suite": ("other", handed("power.power_tables", "suite"), "other"),
            "--quantity": ("M_new_new", handed("power.power_tables", "quantity"), "M_new_new"),
            "--power": (0.7, handed("power.power_tables", "power"), 0.7),
            "--difference": (0.02, handed("power.power_tables", "difference"), 0.02),
            "--against": ("bct", handed("power.power_tables", "against"), "bct"),
            "--results": ("elsewhere", handed("power.power_tables", "results"), Path("elsewhere")),
        },
    ),
    "data": (
        "folder",
        {
            "name": ("sop", handed("registry.make_dataset", "name"), "sop"),
            "--root": (
                "pictures",
                lambda seen: seen["registry.make_dataset"]["options"].get("root"),
                "pictures",
            ),
            "--set": (
                "folder.packed=true",
                lambda seen: seen["registry.make_dataset"]["options"].get("packed"),
                True,
            ),
            "--full": (None, handed("data_check.check", "full"), True),
            "--ids": (
                "ids.csv",
                lambda seen: seen.get("data_check.refuse_own_file", {}).get("output"),
                Path("ids.csv"),
            ),
            "--results": (
                "elsewhere",
                lambda seen: seen["data_check.check"]["sheet"].parts[0],
                "elsewhere",
            ),
        },
    ),
    "check": (
        "bct",
        {
            "method": ("ract", handed("contract.run", "name"), "ract"),
            "--set": ("weight=2", handed("contract.run", "options"), {"weight": 2}),
        },
    ),
    "speed": (
        "",
        {
            "--suite": (ROOT / "tests" / "tiny.toml", measured_suite("name"), "tiny"),
            "--set": (
                "epochs=7",
                lambda seen: seen["speed.measure"]["suite"].recipe.epochs,
                7,
            ),
            "--method": ("bct", handed("speed.measure", "method"), "bct"),
            "--threads": (3, handed("speed.measure", "threads"), 3),
            "--repeats": (2, handed("speed.measure", "repeats"), 2),
        },
    ),
    "rehearse": (
        "",
        {
            "--steps": (
                "memory,sweep",
                handed("rehearse.rehearse", "steps"),
                ("memory", "sweep"),
            ),
            "--methods": ("ract,l2", handed("rehearse.rehearse", "methods"), ("ract", "l2")),
            "--quick": (None, handed("rehearse.rehearse", "quick"), True),
        },
    ),
    "new": (
        "method mine",
        {
            "name": ("method other", handed("scaffold.new_method", "name"), "other"),
            "--kind": ("bridge", handed("scaffold.new_method", "kind"), "bridge"),
        },
    ),
    "track": (
        "",
        {
            "--suite": ("mine", handed("results.record_paths", "suite"), "mine"),
            "--results": (
                "elsewhere",
                handed("results.record_paths", "results"),
                Path("elsewhere"),
            ),
        },
    ),
    "ui": (
        "",
        {
            "--results": ("elsewhere", handed("ui.serve", "results"), Path("elsewhere")),
            "--port": (5001, handed("ui.serve", "port"), 5001),
        },
    ),
}
# What an option does that is no argument of a function is tested where that is done.
ELSEWHERE = {
    ("all", "--full"): "the next test",
    ("all", "--against"): "the next test",
    ("run", "--full"): "the next test",
    ("plan", "--full"): "test_commands.py, by what is printed",
    ("compare", "--full"): "report/test_compare.py, by what is printed",
    ("speed", "--json"): "costs/test_speed.py, by what is written",
    ("rehearse", "--json"): "rehearsal/test_rehearsal.py, by what is written",
    ("new", "kind"): "it has one value",
    ("list", "what"): "test_commands.py, by what is printed",
}
PROGRAM = typer.main.get_command(app)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_reaches_what_it_is_for(seen, command):
    usual, joints = COMMANDS[command]
    invoke(command, usual)
    without = {option: place(seen) for option, (_, place, _) in joints.items()}
    for option, (given, place, expected) in joints.items():
        seen.clear()
        more = "" if given is None else given
        invoke(command, f"{usual} {option} {more}" if option.startswith("--") else more)
        assert place(seen) == expected != without[option], option


def invoke(command, words):
    done = CliRunner().invoke(PROGRAM, [command, *shlex.split(str(words))])
    assert isinstance(done.exception, SeenError), (command, words, done.output, done.exception)


def test_no_option_is_forgotten():
    every = {
        (name, max(param.opts, key=len))
        for name, command in PROGRAM.commands.items()
        for param in command.params
        if name != "evaluate"  # upgrade/test_joints.py
    }
    tried = {(command, option) for command, (_, joints) in COMMANDS.items() for option in joints}
    assert every == {*tried, *ELSEWHERE}


@pytest.mark.parametrize("command", ["all", "run"])
def test_what_is_shown_is_what_was_asked_for(monkeypatch, tmp_path, command):
    """`--full` and `--against` reach the last screen, and its runs are those of this command."""
    spec = CellSpec(Cell("tiny", "synthetic", "extended-class", "ract", 3), None, None, 2, ())
    outcomes = [SimpleNamespace(status="done", spec=spec, error="")]
    monkeypatch.setattr(naming, "named_plan", lambda suite, results: (suite, [spec]))
    monkeypatch.setattr(runner, "run", lambda *_: outcomes)
    monkeypatch.setattr(tracker, "Tracker", lambda *_: None)
    calls = []
    original = inspect.signature(bench.cli.run._conclude)
    monkeypatch.setattr(
        bench.cli.run, "_conclude", lambda *given: calls.append(original.bind(*given).arguments)
    )
    chosen = {
        "all": ["--methods", "ract,bct", "--seeds", "3", "--against", "bct"],
        "run": ["ract", "--seed", "3"],
    }[command]
    monkeypatch.chdir(tmp_path)
    for full in (False, True):
        words = [command, *chosen, *SUITE_OF_TESTS, "--results", "r", *(["--full"] if full else [])]
        done = CliRunner().invoke(PROGRAM, words)
        assert done.exit_code == 0, done.output
        shown = calls.pop()
        assert shown["full"] == full
        assert shown["against"] == ("bct" if command == "all" else None)
        assert (shown["results"], shown["suite"]) == (Path("r"), "tiny")
        methods = ("ract", "bct") if command == "all" else ("ract",)
        assert shown["choice"] == Choice(("extended-class",), methods, (3,), ("synthetic",))


def test_the_last_screen_is_of_the_runs_and_against_the_method_that_were_asked_for(
    monkeypatch, stored_suite
):
    calls = {}

    def summary(results, suite, choice, against):
        calls["summary"] = (results, suite, choice, against)
        return SimpleNamespace(
            tables=[Table("whole", (Column("method"),), (), "caption")],
            screen=Screen("what", ("a line",)),
            left_out=["left out"],
        )

    def send(results, suite, tracker, against):
        calls["send"] = (results, suite, tracker, against)
        return results / "report.html"

    monkeypatch.setattr(cached, "summary", summary)
    monkeypatch.setattr(bench.cli.run, "send_suite", send)
    choice = Choice(("extended-data",), ("bct", "ract"), (0, 1), ("icons",))
    for full in (False, True):
        with console.capture() as printed:
            bench.cli.run._conclude(stored_suite, "made-up", "tracker", choice, full, 0.0, "bct")
        results, suite, shown, against = calls["summary"]
        assert (results, suite, against) == (stored_suite, "made-up", "bct")
        paths = suite_paths(results, suite, shown)
        assert {(path.parts[-3], *path.parts[-2:]) for path in paths} == {
            ("extended-data", method, f"seed-{seed}.parquet")
            for method in ("bct", "ract")
            for seed in (0, 1)
        }
        assert calls["send"] == (stored_suite, "made-up", "tracker", "bct")
        assert ("whole" in printed.get()) == full
        assert all(text in printed.get() for text in ("a line", "left out", "report.html"))
