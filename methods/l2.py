"""L2 regression of the new embedding onto the old one of the same image.

`L_cls + w · mean ‖f − g‖²`, as in the public code of openBCT and OpenCompatible, which cut the
longer vector where widths differ; here a learned projection joins them.
"""

from __future__ import annotations

from torch import Tensor

from bench.protocol import Step
from bench.settings import Settings, tunable
from methods._old_space import ComparesWithOld


class L2(ComparesWithOld):
    """Pull every new embedding towards the old embedding of the same image."""

    class Config(Settings):
        weight: float = tunable(1.0, 0.1, 10.0, ge=0, description="of the regression term")

    def loss(self, step: Step) -> dict[str, Tensor]:
        distance = (self.in_old_space(step.new) - step.old).square().sum(1)
        return {"l2": self.config.weight * distance.mean()}
