"""BC-Aligner: a linear map new → old is learned with the model, and its error is a loss.

`L_task + λ · mean (g − B f)²`, over images and dimensions, B without bias: Hu et al., "Learning
Backward Compatible Embeddings", KDD 2022, in the public code of snap-stanford/bc-emb
(`joint_mloss`), read and not run, λ = 16. Not yet backfilled items are asked by B f. The paper's
task is recommendation and its embeddings are un-normalised; ours are unit vectors, whose entries
are about 1/√D, so that λ is weak, as in `l2`: D times as much is λ per squared distance.

The paper's loss for several versions also passes g − B f through the maps B of earlier upgrades,
down to the first. A method here knows the system that it replaces and no earlier one: in a chain
this is the paper's single-step loss (`joint_sloss`), with each B learned against its predecessor.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.protocol import Context, State, Step, StoredEmbeddings
from bench.settings import tunable
from methods._calibration import Calibrated


class BCAligner(Calibrated):
    """Learn a linear map of new embeddings onto old ones together with the model."""

    class Config(Calibrated.Config):
        weight: float = tunable(16.0, 1.0, 20000.0, ge=0, description="λ, of the alignment term")

    def prepare(self, context: Context) -> None:
        """Create the map, also where widths are equal."""
        super().prepare(context)
        self.to_old = nn.Linear(context.new_width, context.old_width, bias=False)

    def loss(self, step: Step) -> dict[str, Tensor]:
        error = (self.to_old(step.new) - step.old).square().mean()
        return {"bc_aligner": self.config.weight * error}

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Ask by the mapped embedding where the item is old."""
        moved: Tensor = self.to_old(view.new) if state == "old" else view.new
        return moved
