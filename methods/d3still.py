"""D3still: decoupled differential distillation of similarities to old neighbours.

Xie et al., CVPR 2024, and its public code (SCY-X/D3still, `D3`). For an image,
let t_k be its old similarities to the K old embeddings of the batch that are nearest to g, best
first, and s_k those of f. The best of them, the image itself, is distilled as a feature: `α ‖t_1 −
s_1‖₂ / B` over the batch. Of the others all differences count, T_kl = t_k − t_l and S_kl = s_k −
s_l, relative to 0.1 + |T_kl|: `β mean ‖wrong‖₂/(K−1) + γ mean ‖right‖₂/(K−1)`, where wrong are the
pairs whose order f turns round and right those that it keeps. K = 10, and in the configuration for
CUB on ResNet-18 α = 100, β = 5, γ = 1 (50, 2, 1 in the code). That code adds cross-entropy with
smoothed labels and a triplet loss; here the loop's classification term stands.

Two neighbours of exactly the same old similarity are compared there with T = 1; ours leaves them
out, as both leave out an item with itself.

Compared with `d3_loss` of that code in float64: loss and gradient equal to 1e-15.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.linalg import vector_norm

from bench.protocol import Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld

SCALE = 0.1  # added to the size of an old difference


class D3still(ComparesWithOld):
    """Keep the old similarity to oneself, and differences of those to old neighbours."""

    class Config(ComparesWithOld.Config):
        feature: float = tunable(100.0, 10.0, 1000.0, ge=0, description="α, of the own similarity")
        wrong: float = tunable(5.0, 0.5, 50.0, ge=0, description="β, of pairs in wrong order")
        right: float = tunable(1.0, 0.1, 10.0, ge=0, description="γ, of pairs in right order")
        neighbours: int = Field(10, ge=2, description="nearest old embeddings compared, K")

    def loss(self, step: Step) -> dict[str, Tensor]:
        count = min(self.config.neighbours, len(step.old))
        taught, rows = (step.old @ step.old.T).topk(count)
        learnt = (self.in_old_space(step.new) @ step.old.T).gather(1, rows)
        own = vector_norm((taught - learnt)[:, 0]) / len(step.old)
        wanted, found = _differences(taught[:, 1:]), _differences(learnt[:, 1:])
        change = (found - wanted) / (SCALE + wanted.abs())
        same = found.detach() * wanted
        wrong, right = (
            vector_norm(change * chosen, dim=1).mean() / max(1, count - 1)
            for chosen in (same < 0, same > 0)
        )
        return {
            "d3_feature": self.config.feature * own,
            "d3_wrong": self.config.wrong * wrong,
            "d3_right": self.config.right * right,
        }


def _differences(values: Tensor) -> Tensor:
    """All differences of the values in each row [B, K] → [B, K²]."""
    return (values.unsqueeze(1) - values.unsqueeze(2)).flatten(1)
