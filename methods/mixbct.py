"""MixBCT: one classification loss over a batch in which old embeddings replace some new ones.

Liang et al., arXiv 2308.06948, and its public code: 30 % of a batch's embeddings are replaced by
the stored old embeddings of the same images, chosen among each class's 90 % nearest to the class's
old mean, and the batch is classified as a whole. Before those distances are measured, every
dimension is divided by its length over the dataset, as in that code. Old embeddings enter the new
classifier, so that widths must be equal.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bench.protocol import Context, Method, Step
from bench.settings import Settings, tunable
from methods._old_space import refuse_unequal_widths


class MixBCT(Method):
    """Train the new classifier on old and new embeddings alike."""

    class Config(Settings):
        mixed: float = tunable(
            0.3, 0.1, 0.7, log=False, ge=0, le=1, description="share of a batch that is replaced"
        )
        credible: float = tunable(
            0.9, 0.5, 1.0, log=False, gt=0, le=1, description="share of a class kept as credible"
        )

    stored: Tensor
    credible: Tensor

    def prepare(self, context: Context) -> None:
        """Mark the credible old embeddings [N]."""
        refuse_unequal_widths(context, "mixbct")
        labels, counts = context.labels, context.class_counts
        least = torch.finfo(context.old_embeddings.dtype).tiny
        scale = context.old_embeddings.norm(dim=0).clamp(min=least)
        distance = ((context.old_embeddings - context.old_centres[labels]) / scale).norm(dim=1)
        by_distance = distance.argsort(stable=True)
        order = by_distance[labels[by_distance].argsort(stable=True)]
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        rank -= (counts.cumsum(0) - counts)[labels]
        credible = rank < (self.config.credible * counts[labels]).ceil()
        self.register_buffer("credible", credible, persistent=False)
        self.register_buffer("stored", context.old_embeddings, persistent=False)

    def loss(self, step: Step) -> dict[str, Tensor]:
        candidates = self.credible[step.rows].nonzero().squeeze(1)
        chosen = candidates[torch.randperm(len(candidates), device=candidates.device)]
        chosen = chosen[: int(self.config.mixed * len(step.rows))]
        mixed = step.new.index_put((chosen,), self.stored[step.rows[chosen]])
        logits = step.logits(mixed, step.new_head)
        return {"classification": functional.cross_entropy(logits, step.labels)}
