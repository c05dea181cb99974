"""The frozen old classifier, extended to classes that it never saw: what BCT and its kin share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench.protocol import Context
from bench.settings import tunable, tunable_choice
from methods._old_space import ComparesWithOld


class InfluencedByOldClassifier(ComparesWithOld):
    """Base of methods in which the old classifier must work on new embeddings.

    `influence_head` [Co + unseen, Do] is frozen; `target` [C] is the row of each class in it, or
    −1 where the class takes no part.
    """

    class Config(ComparesWithOld.Config):
        weight: float = tunable(1.0, 0.1, 10.0, ge=0, description="of the old classifier's term")
        unseen: Literal["synthesise", "drop"] = tunable_choice(
            "synthesise", ("synthesise", "drop"), "classes that the old classifier never saw"
        )

    influence_head: Tensor
    target: Tensor

    def prepare(self, context: Context) -> None:
        """Lay out the frozen classifier and each class's row in it."""
        super().prepare(context)
        head, target = context.old_head, context.old_row.clone()
        if self.config.unseen == "synthesise":
            unseen = target < 0
            target[unseen] = len(head) + torch.arange(int(unseen.sum()), device=target.device)
            head = torch.cat([head, context.old_centres[unseen]])  # lengths do not count in logits
        self.register_buffer("influence_head", head, persistent=False)
        self.register_buffer("target", target, persistent=False)
