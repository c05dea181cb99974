"""Contextual similarity distillation: rank old neighbours as the old embedding ranks them.

`KL(softmax_K(g·g_j/τ_g) ‖ softmax_K(f·g_j/τ_q))` over the K old embeddings of the batch that are
nearest to g, itself among them: Wu et al., CVPR 2022, in the form of the public code of D3still
(SCY-X/D3still, `CSD`): τ_q = 1, τ_g = 0.01, K = 256 in its configurations, weight
5 to 20 by dataset (10 for CUB on ResNet-18). The paper ranks a fixed gallery, that code the batch,
as here. It adds cross-entropy with smoothed labels and a triplet loss; here the loop's
classification term stands.

Compared with `csd_loss` of that code in float64: loss and gradient equal to 1e-15.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.protocol import Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld


class CSD(ComparesWithOld):
    """Give old neighbours the similarities that the old embedding gives them."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(10.0, 1.0, 100.0, ge=0, description="of the divergence")
        query_temperature: float = tunable(1.0, 0.01, 1.0, gt=0)
        gallery_temperature: float = tunable(0.01, 0.01, 0.3, gt=0)
        neighbours: int = Field(256, ge=1, description="nearest old embeddings compared, K")

    def loss(self, step: Step) -> dict[str, Tensor]:
        taught, rows = (step.old @ step.old.T).topk(min(self.config.neighbours, len(step.old)))
        learnt = (self.in_old_space(step.new) @ step.old.T).gather(1, rows)
        divergence = functional.kl_div(
            (learnt / self.config.query_temperature).log_softmax(1),
            (taught / self.config.gallery_temperature).softmax(1),
            reduction="batchmean",
        )
        return {"csd": self.config.weight * divergence}
