"""Low-rank affine adapter: new queries are moved to the old space for items not yet backfilled.

Vejendla, "Drift-Adapter", 2025: `U Vᵀ f + t` with rank 64, fitted to old embeddings by least
squares on paired training embeddings; the independent new model is deployed. The paper fits it by
stochastic gradient; here the same minimum is found exactly, by reduced-rank regression. Its
optional diagonal scaling of the output is left out. From the paper's text only.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench.protocol import Bank, Context, Method, State, View
from bench.settings import Settings, tunable


class LowRankAdapter(Method):
    """Ask not yet backfilled items in the old space, by an affine map of low rank."""

    trains: ClassVar[bool] = False

    class Config(Settings):
        rank: int = tunable(64, 8, 128, ge=1, description="largest rank of the map")

    matrix: Tensor
    shift: Tensor

    def prepare(self, context: Context) -> None:
        """Make room for the map [Dn, Do] and its shift [Do]."""
        new_zeros = context.old_embeddings.new_zeros
        self.register_buffer("matrix", new_zeros(context.new_width, context.old_width))
        self.register_buffer("shift", new_zeros(context.old_width))

    def fit(self, bank: Bank) -> None:
        """Least squares, then the best projection of what it predicts onto `rank` directions."""
        new_mean, old_mean = bank.new.mean(0), bank.old.mean(0)
        new, old = bank.new - new_mean, bank.old - old_mean
        matrix = torch.linalg.pinv(new) @ old
        directions = torch.linalg.svd(new @ matrix, full_matrices=False).Vh[: self.config.rank]
        self.matrix.copy_(matrix @ directions.T @ directions)
        self.shift.copy_(old_mean - new_mean @ self.matrix)

    def query(self, view: View, state: State) -> Tensor:
        """Move the query to the old space where the item is old."""
        return view.new @ self.matrix + self.shift if state == "old" else view.new
