"""Reciprocal-rank fusion: old and new items are searched apart and merged by rank.

Cormack et al., SIGIR 2009: an item scores 1/(k + rank), k = 60. As in `rank_merge` both models
embed the query and each searches the part of the gallery that it embedded, but the lists, which
share no item, interleave by rank and not by distance. The independent new model is deployed and
nothing is trained.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from bench.protocol import Method, State, StoredEmbeddings

SMOOTHING = 60  # k of the paper


class ReciprocalRankFusion(Method):
    """Run both models on a query and interleave the two searches by rank."""

    trains: ClassVar[bool] = False
    query_encodings = searches = 2

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Ask each part of the gallery with the model that embedded it."""
        return view.old if state == "old" else view.new

    @staticmethod
    def merge(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the scores of both searches, [Q, No] and [Q, Nn], into reciprocal ranks."""
        return _reciprocal_ranks(old), _reciprocal_ranks(new)


def _reciprocal_ranks(scores: Tensor) -> Tensor:
    """1/(k + rank) of each item in its row, the best having rank 1, ties in the order of items."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    ranks = order.argsort(dim=1) + 1
    return 1 / (SMOOTHING + ranks.to(scores.dtype))
