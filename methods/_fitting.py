"""How small networks are fitted on paired embeddings after training."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def minimise(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    items: int,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    batch_size: int,
    warmup_epochs: int = 0,
    frozen_statistics_from: int | None = None,
) -> None:
    """Minimise `loss(rows)` over shuffled batches of `items` rows with a cosine schedule.

    Batch statistics are frozen from epoch `frozen_statistics_from` on. Leaves `network` in
    evaluation mode.
    """
    device = next(network.parameters()).device
    rates = [group["lr"] for group in optimizer.param_groups]
    for epoch in range(epochs):
        network.train(frozen_statistics_from is None or epoch < frozen_statistics_from)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * _share_of_rate(epoch, epochs, warmup_epochs)
        for rows in torch.randperm(items, device=device).split(batch_size):  # type: ignore[no-untyped-call]
            if len(rows) > 1:  # batch statistics need two rows
                optimizer.zero_grad()
                loss(rows).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    network.eval()


def _share_of_rate(epoch: int, epochs: int, warmup: int) -> float:
    """Linear warm-up over whole epochs, then a cosine to zero."""
    if epoch < warmup:
        return (epoch + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, epochs - warmup)))
