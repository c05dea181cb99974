"""Oracles: gains against recounting everything, and never worse than any other order."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.evaluation.backfill import search
from bench.evaluation.oracles import SOFTNESS, Hindsight, first_hit_gain, precision_gain
from bench.evaluation.orders import ORDERS, OrderInputs, order
from bench.relevance import Relevance

ORACLES = {"oracle-mAP": "mean_precision", "oracle-flips": "flips_avoided"}


def average_precision(scores, relevant, others):
    """Naive: rank by score and average the precision at each right item."""
    ranking = sorted([*relevant, *others], key=lambda row: -scores[row])
    hits = [place for place, row in enumerate(ranking, 1) if row in set(relevant)]
    return np.mean([number / place for number, place in enumerate(hits, 1)])


@st.composite
def one_query(draw):
    """Scores of 2 to 9 items before and after, all apart, a part of them relevant, one junk."""
    size = draw(st.integers(3, 9))
    scores = np.array(draw(st.permutations(range(2 * size)))) / (2 * size)
    relevant = draw(st.sets(st.integers(1, size - 1), min_size=1))
    others = sorted(set(range(1, size)) - relevant)
    return scores[:size], scores[size:], np.array(sorted(relevant)), np.array(others, int)


@given(one_query())
def test_the_gain_in_precision_is_that_of_ranking_anew(query):
    now, new, relevant, others = query
    before = average_precision(now, relevant, others)
    gain = precision_gain(now, new, relevant, others)
    for row in range(len(now)):
        changed = now.copy()
        changed[row] = new[row]
        after = average_precision(changed, relevant, others)
        assert gain[row] == pytest.approx(after - before, abs=1e-12)


@given(one_query())
def test_the_gain_of_a_first_hit_is_that_of_the_lead_anew(query):
    now, new, relevant, others = query
    gain = first_hit_gain(now, new, relevant, others)

    def chance(scores):
        return 1 / (1 + np.exp((scores[others].max() - scores[relevant].max()) / SOFTNESS))

    for row in range(len(now)):
        changed = now.copy()
        changed[row] = new[row]
        expected = chance(changed) - chance(now) if len(others) else 0
        assert gain[row] == pytest.approx(expected, abs=1e-12)


def world(seed, size=24, asked=8, width=4):
    """Random queries and gallery under two models that partly agree, some of them answered."""
    rng = np.random.default_rng(seed)
    labels, kinds = rng.integers(0, 4, size), rng.integers(0, 4, asked)
    centres = rng.normal(size=(4, width))
    query, gallery = (
        centres[which] + rng.normal(scale=0.8, size=(len(which), width))
        for which in (kinds, labels)
    )
    turn = np.linalg.qr(np.eye(width) + rng.normal(scale=0.3, size=(width, width)))[0]
    relevance = Relevance.from_labels(kinds, labels)
    old = search(query, gallery, relevance)
    new_gallery = gallery @ turn + rng.normal(scale=0.2, size=gallery.shape)
    new_query = query @ turn
    hindsight = Hindsight(
        *(new_query, new_gallery, new_query, gallery, relevance, np.linspace(0, 1, 5)),
        answered=old.success[0, 0],
    )
    return OrderInputs(
        size=size,
        gallery_old=gallery,
        old_head=centres,
        new_head=centres @ turn,
        train_old=rng.normal(size=(12, width)),
        train_labels=np.arange(12) % 3,
        method_uncertainty=rng.random(size),
        hindsight=hindsight,
    )


@pytest.mark.parametrize(("oracle", "worth"), ORACLES.items())
@pytest.mark.parametrize("seed", range(6))
def test_an_oracle_is_no_worse_than_any_other_order(oracle, worth, seed):
    known = world(seed)
    value = {
        name: getattr(known.hindsight, worth)(order(name, known, np.random.default_rng(3)))
        for name in ORDERS
    }
    assert value[oracle] == max(value.values())
    assert value[oracle] > value["random"]


def test_the_greedy_order_comes_near_the_best_of_all():
    """Of five items every order can be tried; greedy loses a tenth of the range at most."""
    for seed in range(4):
        hindsight = world(seed, size=5, asked=6).hindsight
        every = [hindsight.mean_precision(np.array(rows)) for rows in permutations(range(5))]
        found = hindsight.mean_precision(hindsight.greedy(precision_gain, np.ones(6, bool)))
        assert found >= max(every) - 0.1 * (max(every) - min(every))


def test_an_oracle_of_flips_needs_to_know_what_was_right_before():
    known = world(0)
    blind = replace(known, hindsight=replace(known.hindsight, answered=None))
    with pytest.raises(BenchError, match="needs what old queries found in the old gallery"):
        order("oracle-flips", blind, np.random.default_rng(0))
    assert sorted(order("oracle-mAP", blind, np.random.default_rng(0))) == list(range(24))


def test_orders_that_cannot_be_followed_are_no_rivals():
    """Without heads, training embeddings or a method's own estimate the oracles still answer."""
    known = world(1)
    bare = OrderInputs(known.size, gallery_old=known.gallery_old, hindsight=known.hindsight)
    wide = replace(known, new_head=np.ones((4, 9)))
    for inputs in (bare, wide):
        assert sorted(order("oracle-mAP", inputs, np.random.default_rng(0))) == list(range(24))


def test_areas_are_those_of_the_curve_by_hand():
    """Two items, one right: the query is answered before, and until the wrong one is backfilled."""
    relevance = Relevance.from_lists([[0]], [[]], 2)
    old, new = np.array([[1.0, 0.1], [0.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 0.0]])
    query = np.array([[1.0, 0.0]])
    hindsight = Hindsight(
        *(query, new, query, old, relevance, np.array([0, 0.5, 1])), answered=np.array([True])
    )
    # The old wrong item has cosine 0, the old right one 0.995, the new right one 0.707, the new
    # wrong one 1. So the answer is first, first or second, second; or first, second, second.
    right_first, wrong_first = np.array([0, 1]), np.array([1, 0])
    assert hindsight.mean_precision(right_first) == pytest.approx(0.5 * 1 + 0.5 * 0.75)
    assert hindsight.mean_precision(wrong_first) == pytest.approx(0.5 * 0.75 + 0.5 * 0.5)
    assert hindsight.flips_avoided(right_first) == pytest.approx(-0.25)
    assert hindsight.flips_avoided(wrong_first) == pytest.approx(-0.75)
