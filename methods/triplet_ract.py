"""Triplets against old and new embeddings of other classes: RACT's idea in triplet form.

The term of `triplet` plus the same ranking against new embeddings,
`mean relu(m + ‖f_i − g_i‖ − ‖f_i − f_j‖)`, named `triplet_ract` in the public code of
OpenCompatible; its means count masked negatives, ours do not.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bench.protocol import Step
from bench.settings import Settings, tunable
from methods._old_space import ComparesWithOld
from methods._triplet import distances, margin_ranking


class TripletRACT(ComparesWithOld):
    """Keep each new embedding nearer to its old self than to anything of another class."""

    class Config(Settings):
        weight: float = tunable(
            1.0, 0.1, 10.0, ge=0, description="of the two triplet terms together"
        )
        margin: float = tunable(0.8, 0.1, 1.5, log=False, ge=0)
        negatives: int = Field(10, ge=1, description="nearest negatives kept, of each kind")

    def loss(self, step: Step) -> dict[str, Tensor]:
        to_old = distances(self.in_old_space(step.new), step.old)
        to_new = distances(step.new, step.new)
        negative = step.labels.unsqueeze(1) != step.labels
        terms = [
            margin_ranking(
                to_old.diagonal(), part, negative, self.config.margin, self.config.negatives
            )
            for part in (to_old, to_new)
        ]
        return {"triplet_ract": self.config.weight * (terms[0] + terms[1])}
