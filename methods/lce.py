"""Learning compatible embeddings: align classifier weights with old centres, stay in old bounds.

Meng et al., ICCV 2021, and its public code: `L_cls + λ_a · MSE(Ŵ_n, c_o)
+ λ_b · mean relu(min_k cos(g_k, c_oy) − cos(f, c_oy))`, λ_a = 100, λ_b = 1, with normalised old
class centres `c_o` and the class's farthest old embedding as its boundary. Where widths differ one
learned projection new → old stands for the code's pair of transformations.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bench.protocol import Context, Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld


class LCE(ComparesWithOld):
    """Align new class vectors with old centres and bound each class by its old extent."""

    class Config(ComparesWithOld.Config):
        alignment: float = tunable(100.0, 10.0, 1000.0, ge=0, description="λ_a")
        boundary: float = tunable(1.0, 0.1, 10.0, ge=0, description="λ_b")

    centres: Tensor
    least_cosine: Tensor

    def prepare(self, context: Context) -> None:
        """Find each class's old centre [C, Do] and least cosine to it [C]."""
        super().prepare(context)
        centres = functional.normalize(context.old_centres, dim=1)
        cosine = (context.old_embeddings * centres[context.labels]).sum(1)
        least = torch.ones(context.class_count, dtype=cosine.dtype, device=cosine.device)
        least.scatter_reduce_(0, context.labels, cosine, "amin")
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("least_cosine", least, persistent=False)

    def loss(self, step: Step) -> dict[str, Tensor]:
        classes = self.in_old_space(functional.normalize(step.new_head, dim=1))
        cosine = (self.in_old_space(step.new) * self.centres[step.labels]).sum(1)
        outside = (self.least_cosine[step.labels] - cosine).relu()
        return {
            "alignment": self.config.alignment * functional.mse_loss(classes, self.centres),
            "boundary": self.config.boundary * outside.mean(),
        }
