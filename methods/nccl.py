"""Neighbourhood consensus contrastive learning: agree with a queue of old items and their logits.

Wu et al., AAAI 2022, in the form of the implementation published with MixBCT:
`L_cls + α L_feature + β L_logit`, α = 1, β = 0.01. Each is a supervised contrastive term of the
new embedding (of its logits) against a queue of 8192 old embeddings (of their logits under the new
classifier), temperature 1, each positive weighted by its consensus ½(1 + g_i·g_j). The stored old
embeddings are those of un-augmented images. The paper's choice of credible old items is left out,
as there. That code feeds the logit term with clamped, margin-softened and scaled logits, here they
are the recipe's cosine logits, so that its gradients differ in direction. Old embeddings enter the
new classifier, so that widths must be equal.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from bench.protocol import Context, Method, Step
from bench.settings import Settings, tunable
from methods._old_space import refuse_unequal_widths


class NCCL(Method):
    """Contrast each new embedding with old neighbours, weighted by their consensus."""

    class Config(Settings):
        feature: float = tunable(1.0, 0.1, 10.0, ge=0, description="α")
        logit: float = tunable(0.01, 1e-3, 0.1, ge=0, description="β")
        temperature: float = tunable(1.0, 0.03, 3.0, gt=0)
        queue: int = Field(8192, ge=1, description="old items kept")

    stored: Tensor
    old_queue: Tensor
    logit_queue: Tensor
    label_queue: Tensor

    def prepare(self, context: Context) -> None:
        """Lay out the queues; an empty place has the label −1."""
        refuse_unequal_widths(context, "nccl")
        self.next_place = 0
        stored, size = context.old_embeddings, self.config.queue
        self.register_buffer("stored", stored, persistent=False)
        self.register_buffer(
            "old_queue", stored.new_zeros(size, context.old_width), persistent=False
        )
        self.register_buffer(
            "logit_queue", stored.new_zeros(size, context.class_count), persistent=False
        )
        self.register_buffer(
            "label_queue", torch.full((size,), -1, device=stored.device), persistent=False
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        old = self.stored[step.rows]
        self._enqueue(old, step.logits(old, step.new_head).detach(), step.labels)
        positive = step.labels.unsqueeze(1) == self.label_queue
        weight = positive * 0.5 * (1 + old @ self.old_queue.T)

        def consensus(similarity: Tensor) -> Tensor:
            log_share = (similarity / self.config.temperature).log_softmax(1)
            agreement: Tensor = (weight * log_share).sum(1) / positive.sum(1)
            return -agreement.mean()

        logits = step.logits(step.new, step.new_head)
        return {
            "feature": self.config.feature * consensus(step.new @ self.old_queue.T),
            "logit": self.config.logit * consensus(logits @ self.logit_queue.T),
        }

    def _enqueue(self, old: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Put a batch in the place of the oldest one."""
        places = torch.arange(self.next_place, self.next_place + len(old), device=old.device)
        places %= len(self.old_queue)
        self.old_queue[places], self.logit_queue[places] = old, logits
        self.label_queue[places] = labels
        self.next_place = (self.next_place + len(old)) % len(self.old_queue)
