"""The transformation old → new of forward-compatible training, which `fct` and `fastfill` share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.protocol import Context, Method, PairedEmbeddings, State, StoredEmbeddings
from bench.settings import Settings, tunable
from methods._fitting import minimise

QUICK = {"inner_width": 16, "epochs": 4}


class ForwardSettings(Settings):
    """Training of the transformation, as published for FCT."""

    inner_width: int = Field(2048, ge=1, description="units of the mixing layers")
    epochs: int = Field(80, ge=1, description="passes over the paired embeddings")
    batch_size: int = Field(1024, ge=2)
    learning_rate: float = tunable(5e-4, 5e-5, 5e-3, gt=0)
    weight_decay: float = tunable(2**-15, 1e-6, 1e-2, ge=0)
    warmup_epochs: int = Field(5, ge=0)


class Transformation(nn.Module):
    """FCT's network from old embeddings [B, Do] to features of its last hidden layer [B, inner].

    Old embedding and side information pass a branch each and are mixed; where there is no side
    information the old embedding takes both branches, as in the published code.
    """

    def __init__(self, old_width: int, new_width: int, inner_width: int) -> None:
        super().__init__()

        def branch() -> nn.Sequential:
            return nn.Sequential(
                _layer(old_width, 2 * old_width), _layer(2 * old_width, 2 * new_width)
            )

        self.embedding, self.side = branch(), branch()
        self.mixer = nn.Sequential(
            _layer(4 * new_width, inner_width), _layer(inner_width, inner_width)
        )

    def forward(self, old: Tensor) -> Tensor:
        """Transform a batch."""
        mixed: Tensor = self.mixer(torch.cat([self.embedding(old), self.side(old)], dim=1))
        return mixed


class Forward(nn.Module):
    """A transformation of old embeddings [B, Do] into the new space [B, Dn]."""

    def __init__(self, old_width: int, new_width: int, inner_width: int) -> None:
        super().__init__()
        self.transformation = Transformation(old_width, new_width, inner_width)
        self.to_new = nn.Linear(inner_width, new_width)

    def forward(self, old: Tensor) -> Tensor:
        """Transform a batch."""
        moved: Tensor = self.to_new(self.transformation(old))
        return moved


def fit_transformation(
    network: nn.Module, loss: Callable[[Tensor], Tensor], items: int, settings: ForwardSettings
) -> None:
    """Minimise `loss(rows)` over `items` paired embeddings as published for FCT."""
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    minimise(
        network,
        loss,
        items,
        optimizer,
        settings.epochs,
        settings.batch_size,
        settings.warmup_epochs,
        frozen_statistics_from=settings.epochs // 2,
    )


class TransformsGallery(Method):
    """Base of methods that move stored old embeddings into the independent new model's space."""

    trains = False
    query_encodings = searches = 1
    quick = QUICK

    class Config(ForwardSettings):
        pass

    def prepare(self, context: Context) -> None:
        """Make the transformation."""
        inner = self.config.inner_width
        self.transformation = Transformation(context.old_width, context.new_width, inner)
        self.to_new = nn.Linear(inner, context.new_width)

    def fit(self, bank: PairedEmbeddings) -> None:
        """Minimise `fit_loss` over the paired embeddings."""
        fit_transformation(self, lambda rows: self.fit_loss(bank, rows), len(bank.old), self.config)

    @abstractmethod
    def fit_loss(self, bank: PairedEmbeddings, rows: Tensor) -> Tensor:
        """What is minimised over a batch of `rows` of the bank."""

    def gallery(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Store the transformed old embedding until the item is backfilled."""
        return self.to_new(self.transformation(view.old)) if state == "old" else view.new


def _layer(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width_in, width_out, bias=False), nn.BatchNorm1d(width_out), nn.ReLU()
    )
