"""A served index sees the exact curve where it is exact, and keeps up with the backfill."""

import numpy as np
import pytest

from bench.backfill import hot_refresh
from bench.errors import BenchError
from bench.relevance import Relevance
from bench.served import UpdatableIndex, served_curve

QUERIES, SIZE, WIDTH, DEPTH = 10, 400, 8, 20
SHARES = np.linspace(0, 1, 5)


@pytest.fixture
def system():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(QUERIES, WIDTH))
    old, new = (rng.normal(size=(SIZE, WIDTH)) for _ in range(2))
    dice = rng.random((QUERIES, SIZE))
    relevance = Relevance.from_lists(
        [np.flatnonzero(row < 0.05) for row in dice[:-1]] + [[]],
        [np.flatnonzero(row > 0.97) for row in dice],
        SIZE,
    )
    return query, new, old, relevance, rng.permutation(SIZE), SHARES


def exact_curve(system):
    query, new, old, relevance, order, shares = system
    return hot_refresh(query, new, query, old, relevance, order, shares, f"AP@{DEPTH}")


@pytest.mark.parametrize(
    ("factory", "parameters"), [("Flat", ""), ("IVF4,Flat", "nprobe=4"), ("HNSW16", "efSearch=900")]
)
def test_an_exhaustive_index_sees_the_exact_curve(system, factory, parameters):
    served = served_curve(factory, *system, depth=DEPTH, parameters=parameters)
    exact = exact_curve(system)
    np.testing.assert_allclose(served.ap, exact.ap)
    np.testing.assert_array_equal(served.success, exact.success)
    np.testing.assert_array_equal(served.recall, 1)


@pytest.mark.parametrize("factory", ["IVF4,PQ4x4", "HNSW4", "SQ4", "PCA4,Flat", "PQ4x4"])
def test_an_approximate_index_reports_what_it_misses_and_costs(system, factory):
    served = served_curve(factory, *system, depth=DEPTH, timed_queries=5)
    assert served.ap.shape == (len(SHARES), QUERIES)
    assert 0.05 < served.recall.mean() < 1
    assert served.searches_per_s > 0
    assert served.updates_per_s > 0
    assert 0 < served.latency_ms[0] <= served.latency_ms[1]
    assert served.bytes_per_item > 2
    assert served.rebuilds == (1 if factory == "HNSW4" else 0)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "HNSW16"])
def test_an_updated_item_answers_with_its_new_embedding_only(factory):
    old = np.eye(6, 8)
    new = np.roll(np.eye(6, 8), 2, axis=1)
    index = UpdatableIndex(factory, old, "nprobe=4" if factory.startswith("IVF") else "")
    for rows in ([1], [4, 0], [1]):
        index.update(np.array(rows), new)
    stored = old.copy()
    stored[[0, 1, 4]] = new[[0, 1, 4]]
    for row in range(6):
        answer = index.search(stored[row : row + 1].astype(np.float32), 6)[0]
        assert sorted(answer[answer >= 0]) == list(range(6))
        best = np.flatnonzero(stored @ stored[row] > 0.5)
        assert set(answer[: len(best)]) == set(best)


def test_unknown_factory_strings_are_refused(system):
    with pytest.raises(BenchError, match="FAISS cannot make an index 'Bogus' of width 8"):
        served_curve("Bogus", *system)


def test_indexes_on_a_gpu_retire_items_like_graphs_do(system, monkeypatch):
    """FAISS cannot remove from GPU indexes; here a flat index is treated as if it were one."""
    monkeypatch.setattr("bench.served._fits_gpu", lambda index: True)
    monkeypatch.setattr("bench.served.faiss.get_num_gpus", lambda: 1)
    for name in ("index_cpu_to_all_gpus", "index_gpu_to_cpu"):
        monkeypatch.setattr(f"bench.served.faiss.{name}", lambda index: index, raising=False)
    served = served_curve("Flat", *system, depth=DEPTH)
    assert served.on_gpu
    assert served.rebuilds == 1
    np.testing.assert_allclose(served.ap, exact_curve(system).ap)
