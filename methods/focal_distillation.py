"""Focal distillation: follow the old embedding, more so where the old model was right.

`mean (α + β·1[old model right]) · (f − g)²`, over images and dimensions, α = 1, β = 5, after Yan
et al., "Positive-Congruent Training", CVPR 2021, whose distance is between logits; the distance
between embeddings, a mean over dimensions, is that of OpenCompatible, which however weights by the
*new* model's correctness. The old model is right when its classifier gives the image its class;
about a class that it never saw it never is. The public implementation of PCT that was read
(jun-fang/PCT) has one set of classes, so that the question does not arise, and halves its distance.

As in `l2`, weight 1 is weak, and D is the weight of plain squared distances.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bench.protocol import Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld


class FocalDistillation(ComparesWithOld):
    """Regress onto old embeddings with a focus on images that the old model classified right."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(1.0, 0.5, 2000.0, ge=0, description="of the distillation term")
        everywhere: float = Field(1.0, ge=0, description="α, the weight of every image")
        focus: float = tunable(
            5.0, 0.5, 50.0, ge=0, description="β, added where the old model was right"
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        right = step.logits(step.old, step.old_head).argmax(1) == step.old_row
        distance = (self.in_old_space(step.new) - step.old).square().mean(1)
        focal = self.config.everywhere + self.config.focus * right
        return {"focal_distillation": self.config.weight * (focal * distance).mean()}
