"""Procrustes: a rotation old → new fitted on paired training embeddings; nothing is trained.

`min_R ‖G R − F‖` over orthogonal R has the solution R = U Vᵀ with U Σ Vᵀ = Gᵀ F (Schönemann,
Psychometrika 1966). It is applied to stored old gallery vectors; the independent new model is
deployed. Where widths differ, U Vᵀ has orthonormal rows or columns and maximises the same trace.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from bench.protocol import Bank, Context, Method, State, View


class Procrustes(Method):
    """Rotate stored old embeddings into the independent new model's space."""

    trains: ClassVar[bool] = False
    rotation: Tensor

    def prepare(self, context: Context) -> None:
        """Make room for the rotation [Do, Dn]."""
        shape = (context.old_width, context.new_width)
        self.register_buffer("rotation", context.old_embeddings.new_zeros(shape))

    def fit(self, bank: Bank) -> None:
        """Solve for the rotation."""
        left, _, right = torch.linalg.svd(bank.old.T @ bank.new, full_matrices=False)
        self.rotation.copy_(left @ right)

    def gallery(self, view: View, state: State) -> Tensor:
        """Store the rotated old embedding until the item is backfilled."""
        return view.old @ self.rotation if state == "old" else view.new
