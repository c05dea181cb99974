"""What methods share that compare new embeddings with old ones: a view of the new in old width."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from bench.errors import BenchError
from bench.protocol import Context, State, StoredEmbeddings
from methods._calibration import Calibrated


class ComparesWithOld(Calibrated):
    """Base of methods whose new embeddings are trained to be searchable among old ones.

    Equal widths compare as they are. Unequal widths are joined by a learned linear projection
    new → old, used in the loss and for queries against items that are not yet backfilled; their
    scores are calibrated.
    """

    def prepare(self, context: Context) -> None:
        """Create the projection where widths differ."""
        super().prepare(context)
        same = context.new_width == context.old_width
        self.query_encodings, self.searches = 1, 1 if same else 2
        self.to_old: nn.Module = (
            nn.Identity() if same else nn.Linear(context.new_width, context.old_width, bias=False)
        )

    def in_old_space(self, new: Tensor) -> Tensor:
        """Map new unit embeddings [B, Dn] to unit vectors of the old width [B, Do]."""
        return functional.normalize(self.to_old(new), dim=1)

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Compare in old width with what is not backfilled, in full width with what is."""
        return self.in_old_space(view.new) if state == "old" else view.new


def refuse_unequal_widths(context: Context, name: str) -> None:
    """Raise BenchError where a method can only work with embeddings of one width."""
    if context.old_width != context.new_width:
        raise BenchError(
            f"method '{name}' needs old and new embeddings of one width, but they have "
            f"{context.old_width} and {context.new_width} dimensions; leave it out of this scenario"
        )
