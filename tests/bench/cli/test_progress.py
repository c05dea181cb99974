"""Time left counts what is still to do; live lines fit a terminal of 80 columns."""

import io
import types

import pytest
from rich.console import Console

from bench.cli import progress, run
from bench.cli.progress import Display, Remaining, duration
from bench.pipeline.outcomes import Outcome
from bench.pipeline.plan import make_plan
from bench.suites.loading import compose

CONTENT = {
    **{"name": "toy", "summary": "a toy", "dataset": "synthetic"},
    **{"scenarios": ["enhanced-backbone"], "methods": ["reciprocal_rank_fusion", "l2"]},
    "seeds": [0, 1],
}


def test_what_was_cached_says_nothing_about_what_is_left():
    """Half of the runs cached, one of 20 made in 40 s: 19 more take 760 s."""
    remaining = Remaining(100.0, {"run": 40, "model": 0})
    for _ in range(20):
        remaining.ended("run", None)
    assert remaining.seconds(100.1) is None
    remaining.ended("run", 40.0)
    assert remaining.seconds(140.0) == pytest.approx(19 * 40)


def test_models_and_runs_take_their_own_times_several_at_once():
    """Two at a time: models took 10 s each, runs 30 s each; 60 s have passed."""
    remaining = Remaining(0.0, {"run": 6, "model": 4})
    for kind, seconds in (("model", 10), ("model", 10), ("run", 30), ("run", 30)):
        remaining.ended(kind, seconds)
    assert remaining.seconds(40.0) == pytest.approx((4 * 30 + 2 * 10) / 2)
    for _ in range(4):
        remaining.ended("run", 30)
    for _ in range(2):
        remaining.ended("model", 10)
    assert remaining.seconds(120.0) is None
    alone = Remaining(0.0, {"run": 6, "model": 4})
    alone.ended("model", 10)
    assert alone.seconds(10.0) == pytest.approx(9 * 10)  # a run lasts as long, as far as is known


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.04, "0.0 s"), (6.24, "6.2 s"), (9.97, "10 s"), (59.4, "59 s"), (441, "7 min 21 s")),
        *((119.7, "2 min 0 s"), (7500, "2 h 05 min"), (7199.6, "2 h 00 min")),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, text):
    assert duration(seconds) == text


@pytest.fixture(scope="module")
def plan():
    return make_plan(compose(CONTENT))


def shown(terminal, outcomes, plan, monkeypatch):
    clock = iter(range(0, 100_000, 5))
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal, color_system=None)
    display = Display(console)
    with display:
        display.begin(len(plan), 1)
        display.progress(
            "enhanced-backbone · reciprocal_rank_fusion · seed 0", "train", 1234, 56789
        )
        if terminal:
            display.bars.refresh()
        for outcome in outcomes:
            display.finish(outcome)
    return console.file.getvalue()


def test_runs_are_counted_once_and_models_are_not(plan, monkeypatch):
    outcomes = [
        Outcome(plan[0], "cached"),
        Outcome(plan[1], "cached"),
        Outcome(plan[0].old, "done", 12.0),
        Outcome(plan[2], "done", 61.0),
        Outcome(plan[3], "failed", 1.0, error="a [red]cause[/]"),
    ]
    lines = shown(False, outcomes, plan, monkeypatch).splitlines()
    assert lines[0] == "= 2 of 4 runs are cached"
    assert lines[1].startswith("      ✓ base model · all data · test_byobnet · seed 0 · 12 s · ")
    assert lines[1].endswith(" left")
    name = "enhanced-backbone · reciprocal_rank_fusion · seed 1"
    assert lines[2].startswith(f"[3/4] ✓ {name} · 1 min 1 s · ")
    assert lines[3] == "[4/4] ✗ enhanced-backbone · l2 · seed 1: a [red]cause[/]"
    assert len(lines) == 4


def test_live_lines_fit_80_columns(plan, monkeypatch):
    outcomes = [Outcome(plan[0].old, "done", 12.0), Outcome(plan[2], "done", 6100.0)]
    text = shown(True, outcomes, plan, monkeypatch)
    lines = [line for line in text.replace("\r", "\n").splitlines() if "…" in line or "all" in line]
    assert lines
    for line in lines:
        bare = "".join(character for character in line if character.isprintable())
        assert len(bare.replace("[2K", "").replace("[1A", "").replace("[?25l", "")) <= 80


def test_the_line_above_the_last_screen_is_broken_between_what_it_says():
    what = "icons · 4 runs, 2 seeds, 731 queries in 245 groups"
    assert run._wrapped("smoke", what, "2 min") == [f"smoke · {what} · 2 min"]
    assert run._wrapped("smoke+epochs=2+ract.weight=2", what, "2 min 12 s") == [
        "smoke+epochs=2+ract.weight=2",
        f"  {what} · 2 min 12 s",
    ]
