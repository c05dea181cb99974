"""Asymmetric metric learning: new embeddings against the old ones of positives and negatives.

`L_cls + ½ Σ_{j: y_j = y_i} ‖f_i − g_j‖² + ½ Σ_{j: y_j ≠ y_i} relu(m − ‖f_i − g_j‖)²` per image with
margin 0.7 over the five nearest negatives (Budnik and Avrithis, CVPR 2021, the contrastive loss of
their public code, which has no classification term). That code mines one positive and the negatives
from a pool; here both are the old embeddings of the batch, the image's own among its positives.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bench.protocol import Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld
from methods._triplet import distances


class AML(ComparesWithOld):
    """Draw each new embedding to the old ones of its class, and others out of a margin."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(1.0, 0.1, 10.0, ge=0, description="of the contrastive terms")
        margin: float = tunable(0.7, 0.1, 1.5, log=False, ge=0)
        negatives: int = Field(5, ge=1, description="nearest negatives kept per image")

    def loss(self, step: Step) -> dict[str, Tensor]:
        to_old = distances(self.in_old_space(step.new), step.old)
        same = step.labels.unsqueeze(1) == step.labels
        near = (self.config.margin - to_old).relu().masked_fill(same, 0)
        kept = near.topk(min(self.config.negatives, len(near)), dim=1).values
        drawn = to_old.square().masked_fill(~same, 0).sum(1)
        return {"aml": self.config.weight * (drawn + kept.square().sum(1)).mean() / 2}
