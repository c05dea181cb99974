"""Measured seconds are kept for the machine they were measured on, and a damaged file is not."""

import pytest

from bench.costs.estimate import FEW_CLASSES, _scaled
from bench.costs.timings import Timings

HERE = {"device": "cpu, 1 threads"}


def ask(timings, what, seconds):
    notes, calls = {}, []

    def measure():
        calls.append(what)
        notes["a note"] = None
        return seconds

    return timings.seconds(what, measure, notes), list(notes), len(calls)


def test_what_was_measured_is_not_measured_again(tmp_path):
    timings = Timings(tmp_path, HERE)
    assert ask(timings, ("step", "a"), 2.5) == ((2.5, False), ["a note"], 1)
    assert ask(timings, ("step", "a"), 9.0) == ((2.5, True), ["a note"], 0)
    assert ask(timings, ("step", "b"), 3.0) == ((3.0, False), ["a note"], 1)
    elsewhere = Timings(tmp_path, {"device": "cpu, 2 threads"})
    assert ask(elsewhere, ("step", "a"), 1.5) == ((1.5, False), ["a note"], 1)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"seconds": "x", "notes": []}', '{"seconds": NaN, "notes": []}'),
        *('{"seconds": -1, "notes": []}', '{"seconds": 1, "notes": null}'),
    ],
)
def test_a_file_that_cannot_be_used_is_measured_anew(tmp_path, text):
    timings = Timings(tmp_path, HERE)
    ask(timings, ("step",), 2.5)
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    assert ask(timings, ("step",), 4.0)[0] == (4.0, False)
    assert ask(timings, ("step",), 5.0)[0] == (4.0, True)


def test_losses_of_many_classes_are_scaled_from_few():
    asked = []

    def seconds(classes):
        asked.append(classes)
        return 0.25 + 1e-5 * classes

    assert _scaled(seconds, 254) == pytest.approx(0.25 + 1e-5 * 254)
    assert _scaled(seconds, 81_313) == pytest.approx(0.25 + 1e-5 * 81_313)
    assert asked == [254, *FEW_CLASSES]
