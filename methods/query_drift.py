"""Query drift compensation: subtract the mean drift of the embedding from new queries.

`q = f − mean (f − g)` over paired training embeddings, from the public code of QDC
(dipamgoswami/QDC, CoLLAs 2025), read and not run. There f is a fine-tuned version of g, and the
mean is over training queries; independent models share no space, so that this is a floor, the
cheapest that a bridge can be. The independent new model is deployed. Widths must be equal.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from bench.protocol import Context, Method, PairedEmbeddings, State, StoredEmbeddings
from methods._old_space import refuse_unequal_widths


class QueryDrift(Method):
    """Ask not yet backfilled items with the new query less the mean drift."""

    trains: ClassVar[bool] = False
    drift: Tensor

    def prepare(self, context: Context) -> None:
        """Make room for the drift [D]."""
        refuse_unequal_widths(context, "query_drift")
        self.register_buffer("drift", context.old_embeddings.new_zeros(context.old_width))

    def fit(self, bank: PairedEmbeddings) -> None:
        """Take the mean drift."""
        self.drift.copy_((bank.new - bank.old).mean(0))

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Take the drift off where the item is old."""
        return view.new - self.drift if state == "old" else view.new
