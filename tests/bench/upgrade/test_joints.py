"""From the command line to the evaluation, and from an interval to a decision."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from bench.analysis.limits import Bound
from bench.cli.commands import app
from bench.errors import BenchError
from bench.upgrade import inputs, judge


class SeenError(BenchError):
    """The evaluation was reached."""


# Every option that is handed on, away from its default.
GIVEN = {
    "queries_new": Path("qn.npy"),
    "gallery_old": Path("go.npy"),
    "gallery_new": Path("gn.npy"),
    "relevance": Path("truth.csv"),
    "queries_old": Path("qo.npy"),
    "pairs_old": Path("po.npy"),
    "pairs_new": Path("pn.npy"),
    "pairs": 7,
    "bridges": ["procrustes", "rank_merge"],
    "order": "mine.txt",
    "centres": Path("centres.npy"),
    "shares": 9,
    "metric": "AP@10",
    "groups": Path("groups.csv"),
    "weights": Path("weights.csv"),
    "drop_self": True,
    "query_table": Path("questions.csv"),
    "item_table": Path("items.csv"),
    "id_column": "name",
    "index": "HNSW32",
    "index_parameters": "efSearch=64",
    "items_per_second": 11.0,
    "price_per_hour": 3.5,
    "seed": 5,
}
LIMITS = {
    "--max-nfr": ("nfr", 0.03),
    "--min-gain": ("gain", 0.02),
    "--min-recall": ("recall", 0.9),
    "--max-p99-ms": ("p99_ms", 4.0),
}


def words(name, value):
    option = f"--{name.replace('_', '-')}"
    if value is True:
        return [option]
    return [option, ",".join(value) if isinstance(value, list) else str(value)]


def test_every_option_reaches_the_evaluation(monkeypatch):
    calls, original = [], inputs.evaluate_upgrade

    def spy(*arguments, **options):
        calls.append(inspect.signature(original).bind(*arguments, **options).arguments)
        raise SeenError("seen")

    monkeypatch.setattr(inputs, "evaluate_upgrade", spy)
    options = [part for name, value in GIVEN.items() for part in words(name, value)]
    done = CliRunner().invoke(app, ["evaluate", *options, "--min-metric", "nDCG@5=0.4"])
    assert isinstance(done.exception, SeenError), done.output
    (arguments,) = calls
    assert arguments["further"] == ("nDCG@5",)
    handed_on = set(inspect.signature(original).parameters) - {"further", "report"}
    assert handed_on == set(GIVEN)
    assert callable(arguments["report"])
    for name, value in GIVEN.items():
        default = inspect.signature(original).parameters[name].default
        assert arguments[name] == value != default, name


@pytest.mark.parametrize("option", LIMITS)
def test_every_limit_reaches_the_verdict(monkeypatch, option):
    asked = []

    class Result:
        def verdict(self, limits):
            asked.append(limits)
            raise SeenError("seen")

    monkeypatch.setattr(inputs, "evaluate_upgrade", lambda *_, **__: Result())
    name, value = LIMITS[option]
    files = [
        part
        for each in ("queries_new", "gallery_old", "gallery_new")
        for part in words(each, GIVEN[each])
    ]
    done = CliRunner().invoke(app, ["evaluate", *files, option, str(value), "--each-slice"])
    assert isinstance(done.exception, SeenError), done.output
    assert asked == [judge.Limits(**{name: value}, each_slice=True)]


@pytest.mark.parametrize(
    ("given", "measured", "state"),
    [
        ({"nfr": 0.2}, {"NFR@1": Bound(0.1, 0.05, 0.2)}, "pass"),
        ({"nfr": 0.2}, {"NFR@1": Bound(0.1, 0.05, 0.21)}, "undecided"),
        ({"nfr": 0.2}, {"NFR@1": Bound(0.3, 0.21, 0.4)}, "fail"),
        ({"nfr": 0.2}, {"NFR@1": Bound(0.1)}, "undecided"),
        ({"gain": 0.2}, {"gain": Bound(0.3, 0.2, 0.4)}, "pass"),
        ({"gain": 0.2}, {"gain": Bound(0.3, 0.19, 0.4)}, "undecided"),
        ({"gain": 0.2}, {"gain": Bound(0.1, 0.05, 0.19)}, "fail"),
        ({"least": {"AP": 0.2}}, {"AP": Bound(0.3, 0.2, 0.4)}, "pass"),
        ({"least": {"AP": 0.2}}, {"AP": Bound(0.3, 0.1, 0.4)}, "undecided"),
    ],
)
def test_each_limit_is_held_against_its_own_interval(monkeypatch, given, measured, state):
    others = {"NFR@1": Bound.exact(9), "gain": Bound.exact(-9), "AP": Bound.exact(-9)}
    monkeypatch.setattr(judge, "bounds", lambda *_: others | measured)
    found = SimpleNamespace(metric="AP")
    checks = judge._part(found, None, judge.Limits(**given), None, "slice 'x': ", None)
    assert [check.state for check in checks] == [state]
    assert checks[0].words.startswith("slice 'x': ")
