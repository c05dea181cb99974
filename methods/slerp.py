"""SLERP: the query stands between the old embedding and the rotated new one.

Public code of "SLERP backward compatibility" (miccunifi, 2026), read and not run: a Procrustes map
R = P Qᵀ with P Σ Qᵀ = V_newᵀ U_old, the old vectors padded with zeros where the new ones are wider;
q = slerp(u_old, R v_new; α) with the angle's cosine kept 10⁻⁷ from ±1. Both models embed the query.
α is the best of 0, .1 … 1 by recall at 1 on a support set, as there; the support set is a sample of
the training pairs here, an item's own old vector the answer to its query: label-free. Since the
training query is the very image of its answer, recall is nearly 1 for small α already; among equals
the largest α is taken, which trusts the new model most. The code pads the old side only; a new
embedding that is narrower is mapped up by R itself.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.protocol import Context, Method, PairedEmbeddings, State, StoredEmbeddings
from bench.settings import Settings

LEAST = 1e-7


class Slerp(Method):
    """Ask not yet backfilled items halfway between both models' embeddings of the query."""

    trains: ClassVar[bool] = False

    class Config(Settings):
        alpha: float | None = Field(
            None, ge=0, le=1, description="place between old (0) and new (1); chosen if not given"
        )
        support: int = Field(1000, ge=2, description="training pairs on which it is chosen")

    rotation: Tensor
    alpha: Tensor

    def prepare(self, context: Context) -> None:
        """Make room for the map [Dn, max(Do, Dn)] and α."""
        width = max(context.old_width, context.new_width)
        zeros = context.old_embeddings.new_zeros
        self.register_buffer("rotation", zeros(context.new_width, width))
        self.register_buffer("alpha", zeros(()))

    def fit(self, bank: PairedEmbeddings) -> None:
        """Solve for the map, then choose α on a sample of the pairs."""
        old = self._padded(bank.old)
        left, _, right = torch.linalg.svd(bank.new.T @ old, full_matrices=False)
        self.rotation.copy_(left @ right)
        chosen = self.config.alpha
        if chosen is None:
            sample = torch.randperm(len(old), device=old.device)[: self.config.support]
            chosen = self._best(old[sample], bank.new[sample])
        self.alpha.fill_(chosen)

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Interpolate where the item is old."""
        if state == "new":
            return view.new
        return slerp(self._padded(view.old), view.new @ self.rotation, float(self.alpha))

    def gallery(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Pad old vectors to the width of the query."""
        return self._padded(view.old) if state == "old" else view.new

    def _padded(self, old: Tensor) -> Tensor:
        return functional.pad(old, (0, self.rotation.shape[1] - old.shape[1]))

    def _best(self, old: Tensor, new: Tensor) -> float:
        """α of the best recall at 1 among the old vectors; the largest of equals."""
        wanted = torch.arange(len(old), device=old.device)
        recall = {}
        for alpha in (tenth / 10 for tenth in range(11)):
            found = (slerp(old, new @ self.rotation, alpha) @ old.T).argmax(1)
            recall[alpha] = int((found == wanted).sum())
        return max(recall, key=lambda alpha: (recall[alpha], alpha))


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Interpolate along the great circle from unit directions `start` [B, D] to `end` [B, D]."""
    start, end = functional.normalize(start, dim=1), functional.normalize(end, dim=1)
    cosine = (start * end).sum(1, keepdim=True).clamp(-1 + LEAST, 1 - LEAST)
    angle = cosine.acos()
    parts = ((1 - share) * angle).sin() * start + (share * angle).sin() * end
    return functional.normalize(parts / angle.sin(), dim=1)
