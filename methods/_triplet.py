"""The margin ranking that `triplet` and `triplet_ract` share."""

from __future__ import annotations

import torch
from torch import Tensor


def distances(left: Tensor, right: Tensor) -> Tensor:
    """Euclidean distances [B, N], with a finite gradient where two vectors meet."""
    squares = left.square().sum(1, keepdim=True) + right.square().sum(1) - 2 * left @ right.T
    return squares.clamp(min=1e-12).sqrt()


def margin_ranking(
    positive: Tensor, distance: Tensor, negative: Tensor, margin: float, count: int
) -> Tensor:
    """Mean of relu(margin + d⁺ − d⁻) over each row's `count` nearest negatives, zero without any.

    `positive` [B]; `distance` [B, N], of which `negative` [B, N] tells the negatives.
    """
    masked = distance.masked_fill(~negative, torch.inf)
    nearest = masked.topk(min(count, masked.shape[1]), dim=1, largest=False).values
    violations = (margin + positive.unsqueeze(1) - nearest).relu()
    return violations.sum() / nearest.isfinite().sum().clamp(min=1)
