"""Procrustes: a rotation old → new fitted on paired training embeddings; nothing is trained.

`min_R ‖G R − F‖` over orthogonal R has the solution R = U Vᵀ with U Σ Vᵀ = Gᵀ F (Schönemann,
Psychometrika 1966). It is applied to stored old gallery vectors; the independent new model is
deployed. Where widths differ, U Vᵀ has orthonormal rows or columns and maximises the same trace.

`centre` takes both means off before the fit and puts the new one on after it. `scale` multiplies
every dimension of the rotated vectors by its least-squares factor, a diagonal scaling as that of
Drift-Adapter's paper, which learns it together with its map and has it by default; both are off
here, where Procrustes is the plain one.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bench.protocol import Context, Method, PairedEmbeddings, State, StoredEmbeddings
from bench.settings import Settings


class Procrustes(Method):
    """Rotate stored old embeddings into the independent new model's space."""

    trains: ClassVar[bool] = False
    query_encodings = searches = 1

    class Config(Settings):
        centre: bool = Field(False, description="fit between the means of old and new")
        scale: bool = Field(False, description="scale every dimension after the rotation")

    rotation: Tensor
    old_mean: Tensor
    new_mean: Tensor
    factors: Tensor

    def prepare(self, context: Context) -> None:
        """Make room for the rotation [Do, Dn], the means of old and new, and factors [Dn]."""
        old, new = context.old_width, context.new_width
        self.register_buffer("rotation", torch.zeros(old, new))
        self.register_buffer("old_mean", torch.zeros(old))
        self.register_buffer("new_mean", torch.zeros(new))
        self.register_buffer("factors", torch.ones(new))

    def fit(self, bank: PairedEmbeddings) -> None:
        """Solve for the rotation, then for the factors."""
        if self.config.centre:
            self.old_mean.copy_(bank.old.mean(0))
            self.new_mean.copy_(bank.new.mean(0))
        old, new = bank.old - self.old_mean, bank.new - self.new_mean
        left, _, right = torch.linalg.svd(old.T @ new, full_matrices=False)
        self.rotation.copy_(left @ right)
        if self.config.scale:
            moved = old @ self.rotation
            least = torch.finfo(moved.dtype).tiny
            self.factors.copy_((moved * new).sum(0) / moved.square().sum(0).clamp(min=least))

    def gallery(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Store the rotated old embedding until the item is backfilled."""
        if state == "new":
            return view.new
        return (view.old - self.old_mean) @ self.rotation * self.factors + self.new_mean
