"""Cascade: the old search finds candidates, which are embedded anew and re-scored for each query.

What practitioners' tools do while vectors are migrated (EmbedFlow, from its documentation; no
paper): the old model's query finds the best K items in the old index, the new model scores them.
Here the K items are embedded while the query waits, which is paid for and counted, K encodings per
query; a cache of them would be a backfill in the order of the questions. Backfilled items are
searched by the new query. The independent new model is deployed and nothing is trained.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from bench.protocol import Method, State, StoredEmbeddings
from bench.settings import Settings, tunable


class Cascade(Method):
    """Buy new embeddings of the old search's best items, and rank these by them."""

    trains: ClassVar[bool] = False
    query_encodings = searches = 2

    class Config(Settings):
        candidates: int = tunable(100, 10, 1000, ge=1, description="items embedded for each query")

    @property
    def purchases(self) -> int:
        """The best of the old search."""
        candidates: int = self.config.candidates
        return candidates

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Ask each part of the gallery with the model that embedded it."""
        return view.old if state == "old" else view.new
