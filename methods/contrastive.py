"""Contrastive new-to-old training: RACT without its new-to-new negatives.

`−log(exp(f_i·g_i/τ) / (exp(f_i·g_i/τ) + Σ_{j: y_j≠y_i} exp(f_i·g_j/τ)))`, from the public code of
OpenCompatible (`contra`), compared with it in float64: loss and gradient equal to 5e-15.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bench.protocol import Step
from bench.settings import tunable
from methods._contrastive import hardest, info_nce
from methods._old_space import ComparesWithOld


class Contrastive(ComparesWithOld):
    """Score each new embedding's old one above old embeddings of other classes."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(1.0, 0.1, 10.0, ge=0, description="of the contrastive term")
        temperature: float = tunable(0.01, 0.01, 0.3, gt=0)
        negatives: int = Field(10, ge=1, description="hardest negatives kept per image")

    def loss(self, step: Step) -> dict[str, Tensor]:
        to_old = self.in_old_space(step.new) @ step.old.T / self.config.temperature
        negative = step.labels.unsqueeze(1) != step.labels
        term = info_nce(to_old.diagonal(), [hardest(to_old, negative, self.config.negatives)])
        return {"contrastive": self.config.weight * term}
