"""Learning without forgetting: distil the old classifier's logits on new embeddings.

`−Σ softmax(W_o g / T) · log softmax(W_o f / T)` averaged over the batch, after Li and Hoiem, ECCV
2016, in the form of the public code of openBCT (T = 1), which calls it the right choice where old
and new classes do not overlap. Logits are the recipe's cosine logits. `W_o` stays frozen.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from bench.protocol import Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld


class LwF(ComparesWithOld):
    """Distil the old classifier's answers."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(1.0, 0.1, 10.0, ge=0, description="of the distillation term")
        softening: float = tunable(
            1.0, 0.5, 5.0, gt=0, description="T, by which both sides' logits are divided"
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        taught = step.logits(step.old, step.old_head, "old") / self.config.softening
        learnt = step.logits(self.in_old_space(step.new), step.old_head) / self.config.softening
        term = functional.cross_entropy(learnt, taught.softmax(1))
        return {"lwf": self.config.weight * term}
