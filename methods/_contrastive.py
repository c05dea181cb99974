"""The contrastive form that `contrastive` and `ract` share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def hardest(similarity: Tensor, negative: Tensor, count: int) -> Tensor:
    """Keep the `count` most similar negatives of each row [B, B]; what is no negative is −∞."""
    masked = similarity.masked_fill(~negative, -torch.inf)
    return masked.topk(min(count, masked.shape[1]), dim=1).values


def info_nce(positive: Tensor, negatives: Sequence[Tensor]) -> Tensor:
    """Mean of −log(exp(p) / (exp(p) + Σ exp(n))) over rows, from logits [B] and [B, K] each."""
    everything = torch.cat([positive.unsqueeze(1), *negatives], dim=1)
    return (everything.logsumexp(1) - positive).mean()
