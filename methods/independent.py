"""No compatibility term: the upper bound φ* that only a cold refresh can deploy.

Its queries are meaningless among old embeddings, and the figures of its hot refresh show just
that. Where widths differ they are padded with zeros, or cut, so that those figures exist at all.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from bench.protocol import Method, State, StoredEmbeddings


class Independent(Method):
    """Train the new model as if there were no old one; M(*,*) is its accuracy."""

    needs_old: ClassVar[bool] = False

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Compare what cannot be compared, in the width of the other side."""
        if state == "new":
            return view.new
        return functional.pad(view.new, (0, view.old_width - view.new.shape[1]))
