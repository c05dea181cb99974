"""Rank merge: old items are searched by the old query embedding, new ones by the new, and merged.

The baseline of Seo et al., "Metric Compatible Training for Online Backfilling in Large-Scale
Retrieval", WACV 2025: both models embed the query, each searches the part of the gallery that it
embedded, and the two lists are merged by their distances. The independent new model is deployed
and nothing is trained. The paper's reverse query transformation and its metric-compatible
training, which make the two distances comparable, are not part of it.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from bench.protocol import Method, State, StoredEmbeddings


class RankMerge(Method):
    """Run both models on a query and merge the two searches by distance."""

    trains: ClassVar[bool] = False
    query_encodings = searches = 2

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Ask each part of the gallery with the model that embedded it."""
        return view.old if state == "old" else view.new
