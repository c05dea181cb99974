"""Metric-compatible training: the reverse query transformation that rank merge lacks.

Seo et al., "Metric Compatible Training for Online Backfilling in Large-Scale Retrieval", WACV 2025,
of which the *abstract alone* was read: a reverse transformation of the new query asks old items, so
that one encoding serves both searches, and contrastive learning makes the distances of the two
systems comparable, so that they can be merged. What follows is our reading of that. Both models
stay as they are, and a residual perceptron ψ, that of `mlp_adapter`, is fitted to minimise `‖ψ(f_i)
− g_i‖²/D + w · L_i`, L_i the supervised contrastive loss (Khosla et al., NeurIPS 2020, mean outside
the logarithm) of image i among the old items j by cos(ψ(f_i), g_j) and the new ones by cos(f_i,
f_j) at once, itself left out of both: an old item of its class must beat new items of others, and
one of another class must not beat its own new items. The paper's optional new embedding that learns
is not here.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.protocol import PairedEmbeddings
from bench.settings import tunable
from methods.mlp_adapter import MLPAdapter


class MCT(MLPAdapter):
    """Ask old items by a transformed query whose scores compare with those of new items."""

    class Config(MLPAdapter.Config):
        calibrated: bool = Field(False, description="map old scores, which are trained to compare")
        weight: float = tunable(0.01, 1e-4, 1.0, ge=0, description="w, of the contrastive term")
        temperature: float = tunable(0.1, 0.01, 0.5, gt=0, description="of its cosines")

    def fit_loss(self, bank: PairedEmbeddings, rows: Tensor) -> Tensor:
        """Error of the transformation and contrast among the items of both systems."""
        moved = functional.normalize(self.in_old_space(bank.new[rows]), dim=1)
        scores = torch.cat([moved @ bank.old[rows].T, bank.new[rows] @ bank.new[rows].T], dim=1)
        contrast = supervised_contrast(scores / self.config.temperature, bank.labels[rows])
        loss: Tensor = super().fit_loss(bank, rows) + self.config.weight * contrast
        return loss


def supervised_contrast(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over rows of −log softmax at positives, averaged over these; none costs nothing.

    `logits` [B, 2B] are of old items and of new ones, in the order of `labels` [B].
    """
    oneself = torch.eye(len(labels), dtype=torch.bool, device=labels.device).repeat(1, 2)
    positive = (labels.unsqueeze(1) == labels).repeat(1, 2) & ~oneself
    chances = logits.masked_fill(oneself, -torch.inf).log_softmax(1)
    right = chances.masked_fill(~positive, 0).sum(1) / positive.sum(1).clamp(min=1)
    return -right.mean()
