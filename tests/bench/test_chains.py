"""Chains of upgrades, also with three generations of embeddings in one gallery."""

import numpy as np
import pytest

from bench.backfill import hot_refresh
from bench.chains import (
    Version,
    compatibility_matrix,
    interrupted,
    upgrade_curve,
)
from bench.errors import BenchError
from bench.metrics import chain_scalars
from bench.relevance import Relevance
from bench.retrieval import normalise

QUERIES, SIZE, WIDTH = 9, 70, 5
SHARES = np.linspace(0, 1, 6)


@pytest.fixture
def chain():
    rng = np.random.default_rng(0)
    versions = [
        Version(rng.normal(size=(QUERIES, WIDTH)), rng.normal(size=(SIZE, WIDTH))) for _ in range(3)
    ]
    answers = [rng.choice(SIZE - 1, 4, replace=False) for _ in range(QUERIES)]
    return versions, Relevance.from_lists(answers, [[SIZE - 1]] * QUERIES, SIZE), rng


def mean_ap(query, items, relevance):
    """Mean AP of queries on a gallery whose rows may come from any version."""
    scores = normalise(query).astype(float) @ items.astype(float).T
    found = []
    for number, row in enumerate(scores):
        ranked = np.lexsort((np.arange(SIZE), -row))
        ranked = ranked[~np.isin(ranked, relevance.junk[number])]
        ranks = np.flatnonzero(np.isin(ranked, relevance.relevant[number])) + 1
        found.append(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return np.mean(found)


def test_the_matrix_holds_every_query_model_on_every_earlier_gallery(chain):
    versions, relevance, _ = chain
    matrix = compatibility_matrix(versions, relevance)
    for i in range(3):
        for j in range(3):
            if j > i:
                assert np.isnan(matrix[i, j])
            else:
                expected = mean_ap(versions[i].query, normalise(versions[j].gallery), relevance)
                assert matrix[i, j] == pytest.approx(expected)


def test_three_generations_equal_a_search_of_the_mixed_gallery(chain):
    versions, relevance, rng = chain
    reached = interrupted(np.zeros(SIZE, dtype=np.int64), 1, rng.permutation(SIZE), 0.4)
    reached[:5] = 2
    assert np.bincount(reached).min() > 0
    order = rng.permutation(SIZE)
    curve = upgrade_curve(versions, reached, relevance, order, SHARES)
    galleries = np.stack([normalise(version.gallery) for version in versions])
    for share, ap in zip(SHARES, curve.ap, strict=True):
        carried = reached.copy()
        carried[order[: int(np.floor(share * SIZE + 0.5))]] = 2
        items = galleries[carried, np.arange(SIZE)]
        assert ap.mean() == pytest.approx(mean_ap(versions[2].query, items, relevance))


def test_an_upgrade_from_a_finished_one_is_a_hot_refresh(chain):
    versions, relevance, rng = chain
    order = rng.permutation(SIZE)
    curve = upgrade_curve(versions[:2], np.zeros(SIZE, dtype=int), relevance, order, SHARES)
    query = versions[1].query
    expected = hot_refresh(
        query, versions[1].gallery, query, versions[0].gallery, relevance, order, SHARES
    )
    np.testing.assert_array_equal(curve.ap, expected.ap)


def test_scalars_by_hand():
    matrix = np.array([[0.5, np.nan, np.nan], [0.6, 0.7, np.nan], [0.4, 0.65, 0.9]])
    found = chain_scalars(matrix)
    assert found["AC"] == pytest.approx(1 / 3)
    assert found["AM"] == pytest.approx(3.75 / 6)
    assert found["BC"] == pytest.approx(((0.4 - 0.5) + (0.65 - 0.7)) / 2)
    assert found["FC"] == pytest.approx(((0.6 - 0.7) + (0.65 - 0.9)) / 2)


def test_versions_that_do_not_exist_are_refused(chain):
    versions, relevance, rng = chain
    with pytest.raises(BenchError, match=r"items carry versions \[3\].*versions 0..2"):
        upgrade_curve(versions, np.full(SIZE, 3), relevance, rng.permutation(SIZE), SHARES)
    with pytest.raises(BenchError, match="chain of 1 version has no upgrade"):
        chain_scalars(np.ones((1, 1)))
