"""Backward-compatible training: the old classifier must work on new embeddings.

Shen et al., "Towards Backward-Compatible Representation Learning", CVPR 2020, and the public code
of openBCT: `CE(W_n f, y) + w · CE(W_o f, y)` with `W_o` frozen. A class that the old classifier
never saw gets a synthesised row, the mean old embedding of its images, or is left out of the
second term (`unseen`); the paper describes both.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.protocol import Context, Step
from bench.settings import Settings
from methods._old_space import ComparesWithOld


class BCT(ComparesWithOld):
    """Classify new embeddings with the frozen old classifier as well."""

    class Config(Settings):
        weight: float = Field(1.0, ge=0, description="of the old classifier's term")
        unseen: Literal["synthesise", "drop"] = Field(
            "synthesise", description="classes that the old classifier never saw"
        )

    influence_head: Tensor
    target: Tensor

    def prepare(self, context: Context) -> None:
        """Lay out the frozen classifier and each class's row in it (−1: no term)."""
        super().prepare(context)
        head, target = context.old_head, context.old_row.clone()
        if self.config.unseen == "synthesise":
            unseen = target < 0
            target[unseen] = len(head) + torch.arange(int(unseen.sum()), device=target.device)
            head = torch.cat([functional.normalize(head, dim=1), context.old_centres[unseen]])
        self.register_buffer("influence_head", head)
        self.register_buffer("target", target)

    def loss(self, step: Step) -> dict[str, Tensor]:
        target = self.target[step.labels]
        known = target >= 0
        logits = step.logits(self.in_old_space(step.new), self.influence_head)
        terms = functional.cross_entropy(logits[known], target[known], reduction="sum")
        return {"bct": self.config.weight * terms / known.sum().clamp(min=1)}
