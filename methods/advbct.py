"""AdvBCT: an adversary that tells old from new embeddings, and an elastic boundary per class.

Pan et al., "Boundary-Aware Backward-Compatible Representation via Adversarial Learning in Image
Retrieval", CVPR 2023, and its public code: `L_cls + mean relu(‖f − c_y‖ − r_y)` over the images
outside their boundary `+ (E − e + 1)/E · L_adv` in epoch e = 0, 1, … of E. `c_y` is the class's
mean old embedding, its largest old distance r (after a 1.5·IQR cut) becomes the boundary
`r_y = r + (1 − r)·σ(w_y)` with a learned `w_y`; classes of one image and those that the old model
never saw take no part. `L_adv` is the loss of a discriminator D → 100 → BN → ReLU → 2 on new and on
old embeddings, the former through a gradient reversal of strength `2/(1 + e^{−10p}) − 1`; p is the
progress of training. The code feeds the discriminator un-normalised vectors, here it sees unit
vectors. Its radii are those of the old model's training images, ours of all training images of the
class.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.protocol import Context, Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld


class ReversedGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by −`strength`."""

    @staticmethod
    def forward(context: Any, value: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradients[0], None


class AdvBCT(ComparesWithOld):
    """Make new embeddings indistinguishable from old ones and keep them near their old class."""

    class Config(ComparesWithOld.Config):
        boundary: float = tunable(1.0, 0.1, 10.0, ge=0, description="weight of the boundary term")
        adversary: float = tunable(
            1.0, 0.1, 10.0, ge=0, description="weight of the adversarial term"
        )
        threshold: float = tunable(
            1.0, 0.3, 3.0, gt=0, description="radius towards which a boundary gives way"
        )
        hidden: int = Field(100, ge=1, description="units of the discriminator")

    centres: Tensor
    radii: Tensor
    bounded: Tensor

    def prepare(self, context: Context) -> None:
        """Measure the old classes and make the discriminator and the boundaries' elasticity."""
        super().prepare(context)
        distance = (context.old_embeddings - context.old_centres[context.labels]).norm(dim=1)
        # Sorted once: a comparison of all labels for each of many classes would take hours.
        ordered, counts = distance[context.labels.argsort(stable=True)], context.class_counts
        radii = torch.stack([_radius(part) for part in ordered.split(counts.tolist())])
        bounded = (context.class_counts > 1) & (context.old_row >= 0)
        self.register_buffer("radii", radii, persistent=False)
        self.register_buffer("centres", context.old_centres, persistent=False)
        self.register_buffer("bounded", bounded, persistent=False)
        self.elasticity = nn.Parameter(torch.rand(context.class_count) * 2 - 1)
        self.discriminator = nn.Sequential(
            nn.Linear(context.old_width, self.config.hidden),
            nn.BatchNorm1d(self.config.hidden),
            nn.ReLU(),
            nn.Linear(self.config.hidden, 2),
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        new = self.in_old_space(step.new)
        return {
            "boundary": self.config.boundary * self._outside(new, step.labels),
            "adversary": self.config.adversary
            * ((step.epochs - step.epoch + 1) / step.epochs)
            * self._told_apart(new, step.old, step.progress),
        }

    def _outside(self, new: Tensor, labels: Tensor) -> Tensor:
        """Mean excess of those embeddings that lie outside their class's boundary."""
        give = (self.config.threshold - self.radii[labels]) * self.elasticity[labels].sigmoid()
        beyond = (new - self.centres[labels]).norm(dim=1) - self.radii[labels] - give
        excess: Tensor = beyond.relu() * self.bounded[labels]
        return excess.sum() / (excess > 0).sum().clamp(min=1)

    def _told_apart(self, new: Tensor, old: Tensor, progress: float) -> Tensor:
        """Loss of the discriminator, which the new embeddings are trained to raise."""
        self.discriminator.train(len(new) > 1)  # batch statistics need two images
        strength = 2 / (1 + math.exp(-10 * progress)) - 1
        reversed_new: Tensor = ReversedGradient.apply(new, strength)
        is_new = torch.zeros(len(new), dtype=torch.int64, device=new.device)
        return functional.cross_entropy(
            self.discriminator(reversed_new), is_new
        ) + functional.cross_entropy(self.discriminator(old), is_new + 1)


def _radius(distances: Tensor) -> Tensor:
    """Largest distance of a class, outliers beyond 1.5 interquartile ranges left out."""
    count, ordered = len(distances), distances.sort().values
    if count < 4:
        return ordered[-1] if count else distances.new_zeros(())
    low, high = ordered[count // 4], ordered[3 * count // 4]
    reach = 1.5 * (high - low)
    kept = ordered[(ordered >= low - reach) & (ordered <= high + reach)]
    return kept[-1]
