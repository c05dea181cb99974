"""FastFill: a forward transformation that knows how uncertain it is, and backfills by it.

Jaeckle et al., "FastFill: Efficient Compatible Model Update", ICLR 2023: with
`ℓ = ‖h(g) − φ*‖² + CE_0.1(W_n h(g), y)` (label smoothing 0.1, frozen new classifier),
`min mean[½ e^{−s} ℓ + ½ s]` where s(g) is a predicted log-variance; items with the largest s are
backfilled first, which the backfill order `method` asks for. The independent new model is
deployed. From the paper's formulas, no code was found. Network and training are those of `fct`; s
is a linear function of the last hidden layer; the classifier is the recipe's. The paper divides
the squared distance by the width d, of embeddings that are not normalised; ours are, and have a
mean square of 1/d, so that the plain squared distance keeps the weight of the two parts of ℓ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.protocol import Context, PairedEmbeddings, StoredEmbeddings
from bench.settings import tunable
from methods._forward import ForwardSettings, TransformsGallery


class FastFill(TransformsGallery):
    """Transform stored old embeddings, and backfill the least certain first."""

    class Config(ForwardSettings):
        label_smoothing: float = tunable(
            0.1, 0.0, 0.3, log=False, ge=0, lt=1, description="of the classifier's term"
        )

    def prepare(self, context: Context) -> None:
        """Make the transformation and its uncertainty."""
        super().prepare(context)
        self.log_variance = nn.Linear(self.config.inner_width, 1)
        self.temperature = context.temperature

    def fit_loss(self, bank: PairedEmbeddings, rows: Tensor) -> Tensor:
        """Alignment to the new embedding and to its class, weighted by the predicted variance."""
        hidden = self.transformation(bank.old[rows])
        moved, s = self.to_new(hidden), self.log_variance(hidden).squeeze(1)
        classes = functional.normalize(bank.new_head, dim=1)
        alignment = (moved - bank.new[rows]).square().sum(1) + functional.cross_entropy(
            moved @ classes.T / self.temperature,
            bank.labels[rows],
            label_smoothing=self.config.label_smoothing,
            reduction="none",
        )
        loss: Tensor = 0.5 * torch.exp(-s) * alignment + 0.5 * s
        return loss.mean()

    def uncertainty(self, view: StoredEmbeddings) -> Tensor:
        """Predicted log-variance [N] of the transformed embeddings."""
        s: Tensor = self.log_variance(self.transformation(view.old))
        return s.squeeze(1)
