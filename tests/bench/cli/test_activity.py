"""Long computations tell what they do, in a terminal and in a pipe."""

import io
import time

from rich.console import Console

from bench.cli.activity import Activity


def shown(terminal, every, steps):
    """What a console gets while some steps of given seconds run."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=80)
    with Activity(console, every) as activity:
        for step, seconds in steps:
            activity.report(step)
            time.sleep(seconds)
    return stream.getvalue()


def test_a_pipe_gets_a_line_of_the_step_in_hand_at_the_interval():
    lines = shown(False, 0.1, [("first", 0.25), ("second [red]", 0.25)]).splitlines()
    assert [line.partition(",")[0] for line in lines].count("first") == 2
    assert any(line.startswith("second [red], 0 s (0 s in all)") for line in lines)


def test_a_pipe_hears_nothing_of_what_is_quick():
    assert shown(False, 10.0, [("first", 0), ("second", 0)]) == ""


def test_a_terminal_shows_each_step_at_once():
    assert "first, 0 s" in shown(True, 10.0, [("first", 0.2)])
