"""Triplet loss: a new embedding, its old one, and the nearest old embeddings of other classes.

`mean relu(m + ‖f_i − g_i‖ − ‖f_i − g_j‖)` over the hardest j with y_j ≠ y_i, margin 0.8, named
`triplet` in the public code of OpenCompatible. That code always keeps k negatives and counts the
masked ones, whose term is zero, into the mean; here the mean is over true negatives. Compared with
it in float64 where no negative is masked: loss and gradient equal to 5e-15.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bench.protocol import Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld
from methods._triplet import distances, margin_ranking


class Triplet(ComparesWithOld):
    """Keep each new embedding nearer to its old one than to old embeddings of other classes."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(1.0, 0.1, 10.0, ge=0, description="of the triplet term")
        margin: float = tunable(0.8, 0.1, 1.5, log=False, ge=0)
        negatives: int = Field(10, ge=1, description="nearest negatives kept per image")

    def loss(self, step: Step) -> dict[str, Tensor]:
        to_old = distances(self.in_old_space(step.new), step.old)
        negative = step.labels.unsqueeze(1) != step.labels
        term = margin_ranking(
            to_old.diagonal(), to_old, negative, self.config.margin, self.config.negatives
        )
        return {"triplet": self.config.weight * term}
