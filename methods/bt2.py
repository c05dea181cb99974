"""BT²: extra dimensions and learned rotations let one embedding serve old and new.

Zhou et al., "BT²: Backward-compatible Training with Basis Transformation", ICCV 2023, and its
public code. The embedding has 32 dimensions beyond the recipe's: `f'` is its part of the recipe's
width, which is classified and matched to the independent model's `φ*`, `e` the rest, both
normalised. `[e ; P·C·f']` with an orthogonal P is cut at the old width; the first part, rotated by
an orthogonal Q, is what meets old embeddings:
`CE(f') + λ1(1 − cos(f', φ*)) + λ2·CE(W_pseudo·f_old) + λ3(1 − cos(f_old, g))`, λ = (1, 10, 5),
C = 2, `W_pseudo` the old class means. `φ*` and `g` are of un-augmented images, as there. The code
takes `e` from a further layer of the backbone's output; the logits of f' are the recipe's.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import orthogonal

from bench.errors import BenchError
from bench.protocol import Context, State, Step, StoredEmbeddings
from bench.settings import tunable
from methods._calibration import Calibrated


class BT2(Calibrated):
    """Keep a basis for old embeddings beside one for the independent new ones."""

    needs_independent: ClassVar[bool] = True
    extra_width: ClassVar[int] = 32
    query_encodings, searches = 1, 2

    class Config(Calibrated.Config):
        calibrated: bool = Field(
            False, description="map old scores to the scale of new ones; extra dimensions are new"
        )
        independent: float = tunable(
            1.0, 0.1, 10.0, ge=0, description="λ1, likeness to the independent model"
        )
        influence: float = tunable(
            10.0, 1.0, 100.0, ge=0, description="λ2, of the pseudo classifier's term"
        )
        old: float = tunable(5.0, 0.5, 50.0, ge=0, description="λ3, likeness to the old embedding")
        scale: float = Field(2.0, gt=0, description="C, length of f' beside e")
        influence_temperature: float = tunable(
            1.0, 0.03, 3.0, gt=0, description="of the pseudo classifier"
        )

    stored_old: Tensor
    stored_independent: Tensor
    pseudo_head: Tensor

    def prepare(self, context: Context) -> None:
        """Make the rotations."""
        super().prepare(context)
        if context.independent_embeddings is None or context.new_width < context.old_width:
            raise BenchError(
                f"method 'bt2' needs an embedding at least as wide as the old one; it has "
                f"{context.new_width} dimensions and the old one {context.old_width}"
            )
        self.width = context.independent_embeddings.shape[1]
        self.old_width = context.old_width
        self.rotate_new = orthogonal(nn.Linear(self.width, self.width, bias=False))
        self.rotate_old = orthogonal(nn.Linear(self.old_width, self.old_width, bias=False))
        self.register_buffer("stored_old", context.old_embeddings, persistent=False)
        self.register_buffer("stored_independent", context.independent_embeddings, persistent=False)
        self.register_buffer("pseudo_head", context.old_centres, persistent=False)

    def loss(self, step: Step) -> dict[str, Tensor]:
        own = functional.normalize(step.new[:, : self.width], dim=1)
        old = functional.normalize(self._transformed(step.new)[:, : self.old_width], dim=1)
        logits = step.logits(own, step.new_head[:, : self.width])
        influence = old @ self.pseudo_head.T / self.config.influence_temperature
        unlike_independent = 1 - (own * self.stored_independent[step.rows]).sum(1)
        unlike_old = 1 - (old * self.stored_old[step.rows]).sum(1)
        return {
            "classification": functional.cross_entropy(logits, step.labels),
            "independent": self.config.independent * unlike_independent.mean(),
            "influence": self.config.influence * functional.cross_entropy(influence, step.labels),
            "old": self.config.old * unlike_old.mean(),
        }

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Show old items the part in old width, new ones everything."""
        transformed = self._transformed(view.new)
        return transformed[:, : self.old_width] if state == "old" else transformed

    def gallery(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Store the transformed embedding of backfilled items."""
        return view.old if state == "old" else self._transformed(view.new)

    def _transformed(self, new: Tensor) -> Tensor:
        """Change the basis of embeddings [B, Dn]; the first `old_width` columns are for the old."""
        own = functional.normalize(new[:, : self.width], dim=1)
        extra = functional.normalize(new[:, self.width :], dim=1)
        merged = torch.cat([extra, self.rotate_new(self.config.scale * own)], dim=1)
        return torch.cat(
            [self.rotate_old(merged[:, : self.old_width]), merged[:, self.old_width :]], dim=1
        )
