"""UniBCT: classify among old class prototypes that were refined by the new embeddings' structure.

Zhang et al., "Towards Universal Backward-Compatible Representation Learning", IJCAI 2022, after
the implementation published with MixBCT: for each class `G' = (1−λ)(I − λE)⁻¹ G` with
`E = softmax(F Fᵀ / 0.05)` without its diagonal, λ = 0.9, prototypes = mean of G', computed twice,
after 10 and 20 of 35 epochs; from the first time on, `CE` of new embeddings against the prototypes
is added with weight 1. Three differences. F are the new embeddings of the last epoch as training
saw them, not a fresh pass over the images. E is normalised over each row, as the paper's
propagation asks; that code normalises over columns, which leaves the mean, and so the prototypes,
unrefined. The times are given as shares of training.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.protocol import Context, Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld


class UniBCT(ComparesWithOld):
    """Classify new embeddings among refined old prototypes."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(1.0, 0.1, 10.0, ge=0, description="of the prototypes' term")
        propagation: float = tunable(0.9, 0.5, 0.99, log=False, ge=0, lt=1, description="λ")
        temperature: float = tunable(0.05, 0.01, 0.3, gt=0, description="of the neighbourhood E")
        refined_at: tuple[float, ...] = Field(
            (10 / 35, 20 / 35), description="shares of training after which prototypes are refined"
        )

    stored: Tensor
    latest: Tensor
    labels: Tensor
    prototypes: Tensor

    def prepare(self, context: Context) -> None:
        """Lay out the old embeddings, room for the latest new ones, and plain prototypes."""
        super().prepare(context)
        self.refinements = 0
        self.class_count = context.class_count
        latest = context.old_embeddings.new_zeros(len(context.labels), context.new_width)
        self.register_buffer("latest", latest, persistent=False)
        self.register_buffer("stored", context.old_embeddings, persistent=False)
        self.register_buffer("labels", context.labels, persistent=False)
        self.register_buffer("prototypes", context.old_centres.clone(), persistent=False)

    def loss(self, step: Step) -> dict[str, Tensor]:
        due = sum(step.progress >= share for share in self.config.refined_at)
        if due > self.refinements:
            self.refinements = due
            self._refine()
        self.latest[step.rows] = step.new.detach()
        logits = step.logits(self.in_old_space(step.new), self.prototypes)
        weight = self.config.weight if self.refinements else 0.0
        return {"unibct": weight * functional.cross_entropy(logits, step.labels)}

    def _refine(self) -> None:
        counts = self.labels.bincount(minlength=self.class_count).tolist()
        by_class = torch.split(self.labels.argsort(stable=True), counts)
        for label, rows in enumerate(by_class):
            self.prototypes[label] = self._propagated(self.latest[rows], self.stored[rows]).mean(0)

    def _propagated(self, new: Tensor, old: Tensor) -> Tensor:
        """Spread a class's old embeddings [n, Do] along the neighbourhood of the new ones."""
        if len(new) < 2:
            return old
        identity = torch.eye(len(new), dtype=new.dtype, device=new.device)
        similarity = (new @ new.T / self.config.temperature).masked_fill(identity > 0, -torch.inf)
        kept = self.config.propagation
        spread = torch.linalg.solve(identity - kept * similarity.softmax(1), old)
        refined: Tensor = (1 - kept) * spread
        return refined
