"""Orders are permutations, most uncertain first, and read only what they declare."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.errors import BenchError
from bench.evaluation.oracles import Hindsight
from bench.evaluation.orders import (
    ORDERS,
    PAPER_ORDER,
    DeclaredInputs,
    Order,
    OrderInputs,
    UndeclaredReadError,
    entropy,
    least_confidence,
    margin,
    order,
)
from bench.evaluation.scores import normalise
from bench.relevance import Relevance

READS_GALLERY = {"gallery-distance"}


@pytest.fixture
def knowledge():
    rng = np.random.default_rng(0)
    gallery, relevance = (
        rng.normal(size=(60, 8)),
        Relevance.from_labels(rng.integers(0, 4, 9), rng.integers(0, 4, 60)),
    )
    query, shares = rng.normal(size=(9, 8)), np.linspace(0, 1, 3)
    hindsight = Hindsight(query, gallery[::-1], query, gallery, relevance, shares)
    return OrderInputs(
        size=60,
        gallery_old=gallery,
        old_head=rng.normal(size=(5, 8)),
        new_head=rng.normal(size=(7, 8)),
        train_old=rng.normal(size=(90, 8)),
        train_labels=rng.integers(0, 7, 90) * 3,
        method_uncertainty=rng.random(60),
        hindsight=replace(hindsight, answered=rng.random(9) < 0.5),
    )


@pytest.mark.parametrize("name", ORDERS)
def test_every_order_is_a_permutation_that_its_generator_fixes(name, knowledge):
    first, again = (order(name, knowledge, np.random.default_rng(3)) for _ in range(2))
    assert sorted(first) == list(range(60))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("name", ORDERS)
def test_every_order_needs_what_it_declares_and_nothing_else(name, knowledge):
    entry = ORDERS[name]
    blank = {field: None for field in vars(knowledge) if field not in ("size", "temperature")}
    wanted = {need: getattr(knowledge, need) for need in entry.needs | entry.uses}
    generator = np.random.default_rng
    only = replace(knowledge, **{**blank, **wanted})
    np.testing.assert_array_equal(
        order(name, only, generator(3)), order(name, knowledge, generator(3))
    )
    for need in entry.needs:
        with pytest.raises(BenchError, match=f"order '{name}' needs {need.replace('_', ' ')}"):
            order(name, replace(knowledge, **{need: None}), generator(3))


def test_reading_something_undeclared_is_an_error(knowledge):
    nosy = Order("nosy", "", lambda known, generator: known.hindsight, frozenset({"old_head"}))
    with pytest.raises(UndeclaredReadError, match="'nosy' read hindsight but declares only old_h"):
        nosy.priority(DeclaredInputs(knowledge, nosy), np.random.default_rng(0))


def test_no_knowledge_holds_new_gallery_embeddings():
    with pytest.raises(ValueError, match="no OrderInputs holds"):
        Order("cheat", "", lambda known, generator: known.gallery_new, frozenset({"gallery_new"}))


def test_uncertainties_by_hand():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]], dtype=torch.float64)
    assert least_confidence(probabilities).tolist() == pytest.approx([0.5, 0.1])
    assert margin(probabilities).tolist() == pytest.approx([-0.2, -0.8])
    expected = [-sum(p * np.log(p) for p in row if p) for row in ((0.5, 0.3, 0.2), (0.9, 0.1))]
    assert entropy(probabilities).tolist() == pytest.approx(expected)


def test_the_least_certain_item_comes_first():
    head = np.eye(3)
    gallery = np.array([[1, 0.1, 0], [1, 0.9, 0], [1, 0, 0.0], [1, 0.5, 0]])
    known = OrderInputs(4, gallery_old=gallery, old_head=head)
    for name in ("confidence-old-head", "margin-old-head", "entropy-old-head"):
        assert order(name, known, np.random.default_rng(0)).tolist() == [1, 3, 0, 2]


def test_prototypes_are_means_of_the_training_classes(knowledge):
    unit = normalise(knowledge.train_old).astype(float)
    means = [unit[knowledge.train_labels == c].mean(0) for c in np.unique(knowledge.train_labels)]
    cosines = normalise(knowledge.gallery_old).astype(float) @ normalise(np.array(means)).T
    farthest_first = np.argsort(cosines.max(1), kind="stable")
    found = order("centre-distance", knowledge, np.random.default_rng(0))
    np.testing.assert_array_equal(found, farthest_first)
    as_head = replace(knowledge, old_head=np.array(means))
    np.testing.assert_array_equal(
        order("entropy-prototypes", knowledge, np.random.default_rng(0)),
        order("entropy-old-head", as_head, np.random.default_rng(0)),
    )


def test_what_lies_far_from_the_rest_of_the_gallery_comes_first():
    directions = np.array([[2.0, 0], [1, 0.1], [0, 3], [1, -0.1]])  # lengths do not count
    known = OrderInputs(4, gallery_old=directions)
    found = order("gallery-distance", known, np.random.default_rng(0))
    distance = np.linalg.norm(normalise(directions) - normalise(directions).mean(0), axis=1)
    assert found.tolist() == np.argsort(-distance).tolist() == [2, 3, 0, 1]


def test_answers_go_first_where_they_are_known(knowledge):
    relevance = Relevance.from_lists([[3], [1, 2]], [[], []], 5)
    hindsight = replace(knowledge.hindsight, relevance=relevance)
    known = OrderInputs(5, hindsight=hindsight)
    found = order("by-answered-queries", known, np.random.default_rng(0))
    assert found.tolist() == [3, 1, 2, 0, 4]


def test_orders_tell_what_they_read():
    truth = {name for name, entry in ORDERS.items() if entry.reads_truth}
    assert truth == {"by-answered-queries", "oracle-mAP", "oracle-flips"}
    assert not ORDERS[PAPER_ORDER].reads_truth
    assert {name for name, entry in ORDERS.items() if entry.reads_gallery} == READS_GALLERY


@pytest.mark.parametrize("name", ORDERS)
def test_an_order_that_does_not_read_the_gallery_places_each_item_by_itself(name, knowledge):
    """Taken out of the gallery, an item leaves the others in the order that they had."""
    entry = ORDERS[name]
    if entry.reads_truth or entry.reads_gallery or name == "random":
        return
    kept = np.flatnonzero(np.arange(60) % 3 > 0)
    fewer = replace(
        knowledge,
        size=len(kept),
        gallery_old=knowledge.gallery_old[kept],
        method_uncertainty=knowledge.method_uncertainty[kept],
    )
    whole = order(name, knowledge, np.random.default_rng(0))
    part = order(name, fewer, np.random.default_rng(0))
    assert kept[part].tolist() == [row for row in whole.tolist() if row in kept]


def test_the_new_head_needs_equal_widths(knowledge):
    wider = replace(knowledge, new_head=np.ones((7, 9)))
    with pytest.raises(BenchError, match="width 8 but the class vectors have width 9"):
        order("margin-new-head", wider, np.random.default_rng(0))


def test_unknown_orders_are_refused_with_the_nearest(knowledge):
    with pytest.raises(BenchError, match="did you mean 'random'"):
        order("randon", knowledge, np.random.default_rng(0))
