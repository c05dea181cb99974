"""Ranks that are counted are those of a full sort, with ties and junk."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.evaluation.mixed import counted_ranks


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
