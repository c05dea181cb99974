"""Residual MLP adapter: new queries are moved to the old space for items not yet backfilled.

Vejendla, "Drift-Adapter", 2025: `f + W_2 GELU(W_1 f + b_1) + b_2` with 256 hidden units, fitted to
old embeddings by mean squared error with AdamW on paired training embeddings; the independent new
model is deployed. From the paper's text only; its early stopping and its diagonal scaling of the
output, the paper's default, are left out, and a public reproduction got .24–.50 where it says
.95–.99. Where widths differ the residual path is a learned linear map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.protocol import Context, PairedEmbeddings, State, StoredEmbeddings
from bench.settings import tunable
from methods._calibration import Calibrated
from methods._fitting import minimise


class MLPAdapter(Calibrated):
    """Ask not yet backfilled items in the old space, by a residual perceptron."""

    trains: ClassVar[bool] = False
    query_encodings, searches = 1, 2
    quick: ClassVar[Mapping[str, Any]] = {"epochs": 4}

    class Config(Calibrated.Config):
        hidden: int = tunable(256, 64, 1024, ge=1, description="hidden units")
        epochs: int = Field(50, ge=1)
        batch_size: int = Field(256, ge=2)
        learning_rate: float = tunable(3e-4, 3e-5, 3e-3, gt=0)
        weight_decay: float = tunable(0.01, 1e-4, 1.0, ge=0)

    def prepare(self, context: Context) -> None:
        """Make the perceptron."""
        super().prepare(context)
        widths = (context.new_width, context.old_width)
        self.residual = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False)
        self.change = nn.Sequential(
            nn.Linear(widths[0], self.config.hidden),
            nn.GELU(),
            nn.Linear(self.config.hidden, widths[1]),
        )

    def fit(self, bank: PairedEmbeddings) -> None:
        """Minimise `fit_loss` over the paired embeddings."""
        minimise(
            self,
            lambda rows: self.fit_loss(bank, rows),
            len(bank.new),
            torch.optim.AdamW(
                self.parameters(),
                lr=self.config.learning_rate,
                weight_decay=self.config.weight_decay,
            ),
            self.config.epochs,
            self.config.batch_size,
        )
        super().fit(bank)

    def fit_loss(self, bank: PairedEmbeddings, rows: Tensor) -> Tensor:
        """Mean squared error to the old embeddings of a batch of `rows` of the bank."""
        return functional.mse_loss(self.in_old_space(bank.new[rows]), bank.old[rows])

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Move the query to the old space where the item is old."""
        return self.in_old_space(view.new) if state == "old" else view.new

    def in_old_space(self, new: Tensor) -> Tensor:
        """Map new embeddings [B, Dn] to the old width [B, Do]."""
        moved: Tensor = self.residual(new) + self.change(new)
        return moved
