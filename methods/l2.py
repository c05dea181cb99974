"""L2 regression of the new embedding onto the old one of the same image.

`L_cls + w · mean (f − g)²`, over images and dimensions, as in the public code of OpenCompatible
(`l2`: weight 1, unit vectors), which needs equal widths; openBCT's `l2` has no classification term
and cuts the longer vector. Here a learned projection joins unequal widths. Unit vectors differ by
about 1/D per dimension, so that weight 1 is weak: D is the weight of a plain squared distance.

Compared with `calculate_loss` of that code in float64: loss and gradient equal to 5e-15. Its
classification term is un-normalised, ours is a cosine classifier's, so that weights do not carry
over exactly.
"""

from __future__ import annotations

from torch import Tensor

from bench.protocol import Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld


class L2(ComparesWithOld):
    """Pull every new embedding towards the old embedding of the same image."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(1.0, 0.5, 2000.0, ge=0, description="of the regression term")

    def loss(self, step: Step) -> dict[str, Tensor]:
        distance = (self.in_old_space(step.new) - step.old).square().mean(1)
        return {"l2": self.config.weight * distance.mean()}
