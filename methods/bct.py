"""Backward-compatible training: the old classifier must work on new embeddings.

Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020, and the public code
of openBCT: `CE(W_n f, y) + w · CE(W_o f, y)` with `W_o` frozen. A class that the old classifier
never saw gets a synthesised row, the mean old embedding of its images, or is left out of the
second term (`unseen`); the paper describes both.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from bench.protocol import Step
from methods._old_classifier import InfluencedByOldClassifier


class BCT(InfluencedByOldClassifier):
    """Classify new embeddings with the frozen old classifier as well."""

    def loss(self, step: Step) -> dict[str, Tensor]:
        target = self.target[step.labels]
        known = target >= 0
        logits = step.logits(self.in_old_space(step.new), self.influence_head)
        terms = functional.cross_entropy(logits[known], target[known], reduction="sum")
        return {"bct": self.config.weight * terms / known.sum().clamp(min=1)}
