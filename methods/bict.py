"""Bidirectional compatible training: a BCT model, then old embeddings moved towards it.

Su et al., "Privacy-Preserving Model Upgrades with Bidirectional Compatible Training in Image
Retrieval", arXiv 2204.13919, of which the *abstract alone* was read: the new model is trained
backward-compatibly, and old gallery embeddings are then upgraded "by forward-compatible training
towards the embedding space of the backward-compatible new model". How either is done is our choice:
`bct` as it is, and the transformation and fit of `fct`. The abstract calls the weight of the
backward term essential; its published value is not known to us.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from bench.protocol import Context, PairedEmbeddings, State, StoredEmbeddings
from methods._forward import QUICK, Forward, ForwardSettings, fit_transformation
from methods.bct import BCT


class BiCT(BCT):
    """Train a compatible model, then move old embeddings towards its space."""

    quick = QUICK

    class Config(BCT.Config, ForwardSettings):
        pass

    def prepare(self, context: Context) -> None:
        """Lay out the old classifier and the transformation."""
        super().prepare(context)
        self.forward_map = Forward(context.old_width, context.new_width, self.config.inner_width)

    def fit(self, bank: PairedEmbeddings) -> None:
        """Minimise the squared error of the transformed old embeddings."""
        fit_transformation(
            self.forward_map,
            lambda rows: functional.mse_loss(self.forward_map(bank.old[rows]), bank.new[rows]),
            len(bank.old),
            self.config,
        )
        super().fit(bank)

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Ask all items in the new space."""
        return view.new

    def gallery(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Store the transformed old embedding until the item is backfilled."""
        moved: Tensor = self.forward_map(view.old) if state == "old" else view.new
        return moved
