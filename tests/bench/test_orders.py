"""Orders are permutations, most uncertain first, and read only what they declare."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.errors import BenchError
from bench.orders import (
    ORDERS,
    Declared,
    Knowledge,
    Order,
    UndeclaredReadError,
    entropy,
    least_confidence,
    margin,
    order,
)
from bench.relevance import Relevance
from bench.retrieval import normalise


@pytest.fixture
def knowledge():
    rng = np.random.default_rng(0)
    return Knowledge(
        size=60,
        gallery_old=rng.normal(size=(60, 8)),
        old_head=rng.normal(size=(5, 8)),
        new_head=rng.normal(size=(7, 8)),
        train_old=rng.normal(size=(90, 8)),
        train_labels=rng.integers(0, 7, 90) * 3,
        method_uncertainty=rng.random(60),
        relevance=Relevance.from_labels(rng.integers(0, 4, 9), rng.integers(0, 4, 60)),
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
    wanted = {need: getattr(knowledge, need) for need in entry.needs}
    generator = np.random.default_rng
    only = replace(knowledge, **{**blank, **wanted})
    np.testing.assert_array_equal(
        order(name, only, generator(3)), order(name, knowledge, generator(3))
    )
    for need in entry.needs:
        with pytest.raises(BenchError, match=f"order '{name}' needs {need.replace('_', ' ')}"):
            order(name, replace(knowledge, **{need: None}), generator(3))


def test_reading_something_undeclared_is_an_error(knowledge):
    nosy = Order("nosy", "", lambda known, generator: known.relevance, frozenset({"old_head"}))
    with pytest.raises(UndeclaredReadError, match="'nosy' read relevance but declares only old_h"):
        nosy.priority(Declared(knowledge, nosy), np.random.default_rng(0))


def test_no_knowledge_holds_new_gallery_embeddings():
    with pytest.raises(ValueError, match="no Knowledge holds"):
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
    known = Knowledge(4, gallery_old=gallery, old_head=head)
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


def test_the_oracle_moves_answers_first():
    relevance = Relevance.from_lists([[3], [1, 2]], [[], []], 5)
    found = order("oracle", Knowledge(5, relevance=relevance), np.random.default_rng(0))
    assert found.tolist() == [3, 1, 2, 0, 4]


def test_the_new_head_needs_equal_widths(knowledge):
    wider = replace(knowledge, new_head=np.ones((7, 9)))
    with pytest.raises(BenchError, match="width 8 but the class vectors have width 9"):
        order("margin-new-head", wider, np.random.default_rng(0))


def test_unknown_orders_are_refused_with_the_nearest(knowledge):
    with pytest.raises(BenchError, match="did you mean 'random'"):
        order("randon", knowledge, np.random.default_rng(0))
