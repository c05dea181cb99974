"""Regression-alleviating compatible training: beat new negatives as well as old ones.

Zhang et al., "Hot-Refresh Model Upgrades with Regression-Alleviating Compatible Training in Image
Retrieval", ICLR 2022, in the form of `contra_ract` in the public code of OpenCompatible:
`−log(P / (P + Σ_{j: y_j≠y_i} exp(f_i·g_j/τ) + Σ_{j: y_j≠y_i} exp(f_i·f_j/τ)))` with
`P = exp(f_i·g_i/τ)`, τ = 0.01 and the ten hardest negatives of each kind. The second sum is the
idea: a new-to-old positive must beat new-to-new negatives, or a half-backfilled gallery regresses.

That code gathers new embeddings over devices without gradient, and cannot run otherwise: a new
negative is pushed from, never pushed itself. `far_gradient` lets the gradient through its side too,
as the formula reads; up to 99 % of the largest gradient entry changes. On an icon search with this
recipe AUC_NFR was .076 with and .073 without, a difference of no weight. Compared in float64 with
`calculate_loss` of that code, in both forms: loss and gradient equal to 5e-15.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bench.protocol import Step
from bench.settings import tunable
from methods._contrastive import hardest, info_nce
from methods._old_space import ComparesWithOld


class RACT(ComparesWithOld):
    """Score each new embedding's old one above old and new embeddings of other classes."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(
            1.0, 0.1, 10.0, ge=0, description="of the regression-alleviating term"
        )
        temperature: float = tunable(0.01, 0.01, 0.3, gt=0)
        negatives: int = Field(10, ge=1, description="hardest negatives kept, of each kind")
        far_gradient: bool = Field(
            False, description="also push new negatives away, not only the image from them"
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        to_old = self.in_old_space(step.new) @ step.old.T / self.config.temperature
        far = step.new if self.config.far_gradient else step.new.detach()
        to_new = step.new @ far.T / self.config.temperature
        negative = step.labels.unsqueeze(1) != step.labels
        negatives = [hardest(part, negative, self.config.negatives) for part in (to_old, to_new)]
        return {"ract": self.config.weight * info_nce(to_old.diagonal(), negatives)}
