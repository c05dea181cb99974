"""A limit holds or fails only where the whole interval says so."""

import numpy as np
import pytest

from bench.analysis.limits import Bound, Limit, direction, judge
from bench.analysis.rates import rate_interval

FLIPS = Limit("largest NFR@1", "at most", 0.02)
GAIN = Limit("mAP gain after full backfill, M(n,n) − M(o,o)", "at least", 0.01)


@pytest.mark.parametrize(
    ("limit", "low", "high", "state"),
    [
        (FLIPS, 0.0, 0.02, "pass"),
        (FLIPS, 0.0, 0.0201, "undecided"),
        (FLIPS, 0.02, 0.05, "undecided"),
        (FLIPS, 0.0201, 0.05, "fail"),
        (GAIN, 0.01, 0.4, "pass"),
        (GAIN, 0.0099, 0.4, "undecided"),
        (GAIN, -0.2, 0.01, "undecided"),
        (GAIN, -0.2, 0.0099, "fail"),
        (FLIPS, np.nan, np.nan, "undecided"),
        (GAIN, np.nan, np.nan, "undecided"),
    ],
)
def test_the_unfavourable_end_decides(limit, low, high, state):
    assert judge(limit, Bound(0.015, low, high)).state == state


def test_the_sentence_says_estimate_interval_limit_and_outcome():
    assert judge(GAIN, Bound(0.36354, 0.3289, 0.3987)).sentence == (
        "mAP gain after full backfill, M(n,n) − M(o,o): 0.3635, 95 % CI [0.3289, 0.3987]; required "
        "≥ 0.01: pass"
    )
    straddles = judge(FLIPS, Bound(0, 0, 0.3)).sentence
    assert "required ≤ 0.02: undecided: the 95 % CI straddles the limit" in straddles
    assert judge(FLIPS, Bound(0.1, 0.05, 0.2)).sentence.endswith(": fail")
    unknown = judge(FLIPS, Bound(0.01)).sentence
    assert unknown.endswith("0.0100, 95 % CI cannot be told; required ≤ 0.02: undecided")


def test_what_is_counted_has_no_interval():
    recall = Limit("lowest recall", "at least", 0.9)
    assert judge(recall, Bound.exact(0.9)).sentence == "lowest recall: 0.9000; required ≥ 0.9: pass"
    assert judge(recall, Bound.exact(0.8999)).state == "fail"


@pytest.mark.parametrize(
    ("low", "high", "side"),
    [(0.1, 0.2, 1), (-0.2, -0.1, -1), (0.0, 0.2, 0), (-0.2, 0.0, 0), (np.nan, np.nan, 0)],
)
def test_a_difference_is_on_a_side_of_zero_where_its_whole_interval_is(low, high, side):
    assert direction(Bound(0.05, low, high)) == side


def judged(flips):
    return judge(FLIPS, Bound.of(rate_interval(flips))).state


def test_no_flip_among_ten_queries_is_no_go_ahead():
    assert judged(np.zeros(10)) == "undecided"
    assert judged(np.zeros(1000)) == "pass"


def test_twenty_queries_never_pass_a_limit_of_two_percent_at_a_rate_of_five():
    random = np.random.default_rng(0)
    assert all(judged(random.random(20) < 0.05) != "pass" for _ in range(300))
