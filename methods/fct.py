"""Forward-compatible training: stored old embeddings are transformed into the new space.

Ramanujan et al., "Forward Compatible Training for Large-Scale Embedding Retrieval Systems", CVPR
2022, and its public code: `min_h mean ‖h(g, s) − φ*‖²` over the training images with a network of
inner width 2048, Adam at 5·10⁻⁴ for 80 epochs, batch statistics frozen in the second half. The
independent new model is deployed. The gallery has no side information s; the code's way without
it is followed, h(g, g).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from bench.protocol import PairedEmbeddings
from methods._forward import TransformsGallery


class FCT(TransformsGallery):
    """Transform stored old embeddings until their items are backfilled."""

    def fit_loss(self, bank: PairedEmbeddings, rows: Tensor) -> Tensor:
        """Mean squared error of the transformed old embeddings."""
        moved = self.to_new(self.transformation(bank.old[rows]))
        return functional.mse_loss(moved, bank.new[rows])
