"""Triplets against old and new embeddings of other classes: RACT's idea in triplet form.

The term of `triplet` plus the same ranking against new embeddings,
`mean relu(m + ‖f_i − g_i‖ − ‖f_i − f_j‖)`, named `triplet_ract` in the public code of
OpenCompatible; its means count masked negatives, ours do not. As in `ract`, new negatives carry no
gradient of their own in that code; `far_gradient` gives them one. Compared in float64 with
`calculate_loss` of that code, in both forms, where no negative is masked: equal to 5e-15.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from bench.protocol import Step
from bench.settings import tunable
from methods._old_space import ComparesWithOld
from methods._triplet import distances, margin_ranking


class TripletRACT(ComparesWithOld):
    """Keep each new embedding nearer to its old one than to anything of another class."""

    class Config(ComparesWithOld.Config):
        weight: float = tunable(
            1.0, 0.1, 10.0, ge=0, description="of the two triplet terms together"
        )
        margin: float = tunable(0.8, 0.1, 1.5, log=False, ge=0)
        negatives: int = Field(10, ge=1, description="nearest negatives kept, of each kind")
        far_gradient: bool = Field(
            False, description="also push new negatives away, not only the image from them"
        )

    def loss(self, step: Step) -> dict[str, Tensor]:
        to_old = distances(self.in_old_space(step.new), step.old)
        far = step.new if self.config.far_gradient else step.new.detach()
        to_new = distances(step.new, far)
        negative = step.labels.unsqueeze(1) != step.labels
        terms = [
            margin_ranking(
                to_old.diagonal(), part, negative, self.config.margin, self.config.negatives
            )
            for part in (to_old, to_new)
        ]
        return {"triplet_ract": self.config.weight * (terms[0] + terms[1])}
