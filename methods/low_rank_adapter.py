"""Low-rank affine adapter: new queries are moved to the old space for items not yet backfilled.

Vejendla, "Drift-Adapter", 2025: `U Vᵀ f + t` with rank 64, fitted to old embeddings by least
squares on paired training embeddings; the independent new model is deployed. The paper fits it by
stochastic gradient; here the same minimum is found exactly, by reduced-rank regression. Its
diagonal scaling of the output, the paper's default, is left out. From the paper's text only; a
public reproduction got .24–.50 where the paper says .95–.99.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench.protocol import Context, PairedEmbeddings, State, StoredEmbeddings
from bench.settings import tunable
from methods._calibration import Calibrated

ROWS = 1 << 16  # pairs in float64 at a time
RELATIVE = 1e-9  # share of the largest variance below which a direction is taken for noise


class LowRankAdapter(Calibrated):
    """Ask not yet backfilled items in the old space, by an affine map of low rank."""

    trains: ClassVar[bool] = False
    query_encodings, searches = 1, 2

    class Config(Calibrated.Config):
        rank: int = tunable(64, 8, 128, ge=1, description="largest rank of the map")

    matrix: Tensor
    shift: Tensor

    def prepare(self, context: Context) -> None:
        """Make room for the map [Dn, Do] and its shift [Do]."""
        super().prepare(context)
        shape, device = (context.new_width, context.old_width), context.device
        self.register_buffer("matrix", torch.zeros(shape, device=device))
        self.register_buffer("shift", torch.zeros(shape[1], device=device))

    def fit(self, bank: PairedEmbeddings) -> None:
        """Least squares, then the best projection of what it predicts onto `rank` directions.

        Both follow from products [Dn, Dn] and [Dn, Do], summed in float64 block by block: with a
        million pairs, neither a pseudo-inverse nor a decomposition of all rows is ever held.
        """
        new_mean, old_mean = (part.mean(0, dtype=torch.float64) for part in (bank.new, bank.old))
        gram = new_mean.new_zeros(len(new_mean), len(new_mean))
        cross = new_mean.new_zeros(len(new_mean), len(old_mean))
        pairs = zip(torch.split(bank.new, ROWS), torch.split(bank.old, ROWS), strict=True)
        for new, old in pairs:
            centred = new - new_mean
            gram += centred.T @ centred
            cross += centred.T @ (old - old_mean)
        matrix = torch.linalg.pinv(gram, hermitian=True, rtol=RELATIVE) @ cross
        # Right singular vectors of what is predicted, largest first.
        directions = torch.linalg.eigh(matrix.T @ gram @ matrix).eigenvectors.flip(1)
        directions = directions[:, : self.config.rank]
        self.matrix.copy_(matrix @ directions @ directions.T)
        self.shift.copy_(old_mean - new_mean @ self.matrix.double())
        super().fit(bank)

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Move the query to the old space where the item is old."""
        return view.new @ self.matrix + self.shift if state == "old" else view.new
