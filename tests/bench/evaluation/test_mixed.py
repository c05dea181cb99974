"""Ranks that are counted are those of a full sort, with ties and junk; no queries have no ranks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.evaluation.mixed import MixedRanking, counted_ranks


@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 25))
def test_counted_ranks_are_those_of_a_sorted_gallery(seed, queries, size):
    torch.manual_seed(seed)
    scores = torch.randint(-2, 3, (queries, size)).double()
    kind = torch.randint(0, 3, (queries, size))
    query, rows = torch.nonzero(kind == 1, as_tuple=True)
    found = counted_ranks(scores, query, rows, torch.nonzero(kind == 2, as_tuple=True))
    for q, row, rank in zip(query.tolist(), rows.tolist(), found.tolist(), strict=True):
        kept = [item for item in range(size) if kind[q, item] != 2]
        kept.sort(key=lambda item: (-scores[q, item], item))
        assert kept.index(row) + 1 == rank


@pytest.mark.parametrize("purchases", [0, 1, 2, 9])
@pytest.mark.parametrize("queries", [0, 3])
def test_every_item_of_a_mixed_gallery_is_ranked_once_whatever_is_bought(queries, purchases):
    backfilled = torch.tensor([True, False, False, True, False])
    old, new = torch.rand(2, queries, 5, dtype=torch.float64)
    order = MixedRanking(old, new, purchases=purchases).order(backfilled)
    assert order.shape == (queries, 5)
    assert (order.sort(1).values == torch.arange(5)).all()


def test_no_queries_have_no_ranks():
    none = torch.empty(0, dtype=torch.int64)
    scores = torch.empty(0, 7, dtype=torch.float64)
    assert counted_ranks(scores, none, none, (none, none)).shape == (0,)
