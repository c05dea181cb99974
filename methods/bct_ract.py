"""BCT with RACT's idea: old classifier weights must score above new ones of other classes.

`CE([W_o f ; W_n f without column y], y)`, named `bct_ract` in the public code of OpenCompatible,
which lets a masked logit of −10⁹ stand for the missing column and assumes that old and new classes
are numbered alike. Here a class that the old classifier never saw is treated as in `bct`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bench.protocol import Step
from methods._old_classifier import InfluencedByOldClassifier


class BCTRACT(InfluencedByOldClassifier):
    """Classify among old class vectors and the new vectors of all other classes."""

    def loss(self, step: Step) -> dict[str, Tensor]:
        target = self.target[step.labels]
        known = target >= 0
        to_old = step.logits(self.in_old_space(step.new), self.influence_head)
        own = functional.one_hot(step.labels, len(step.new_head)).bool()
        to_new = step.logits(step.new, step.new_head).masked_fill(own, -torch.inf)
        logits = torch.cat([to_old, to_new], dim=1)
        terms = functional.cross_entropy(logits[known], target[known], reduction="sum")
        return {"bct_ract": self.config.weight * terms / known.sum().clamp(min=1)}
