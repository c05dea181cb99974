"""Residual MLP adapter: new queries are moved to the old space for items not yet backfilled.

Vejendla, "Drift-Adapter", 2025: `f + W_2 GELU(W_1 f + b_1) + b_2` with 256 hidden units, fitted to
old embeddings by mean squared error with AdamW on paired training embeddings; the independent new
model is deployed. From the paper's text only; its early stopping and its optional diagonal scaling
of the output are left out. Where widths differ the residual path is a learned linear map.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.protocol import Bank, Context, Method, State, View
from bench.settings import Settings, tunable
from methods._fitting import minimise


class MLPAdapter(Method):
    """Ask not yet backfilled items in the old space, by a residual perceptron."""

    trains: ClassVar[bool] = False

    class Config(Settings):
        hidden: int = tunable(256, 64, 1024, ge=1, description="hidden units")
        epochs: int = Field(50, ge=1)
        batch_size: int = Field(256, ge=2)
        learning_rate: float = tunable(3e-4, 3e-5, 3e-3, gt=0)
        weight_decay: float = tunable(0.01, 1e-4, 1.0, ge=0)

    def prepare(self, context: Context) -> None:
        """Make the perceptron."""
        widths = (context.new_width, context.old_width)
        self.residual = nn.Identity() if widths[0] == widths[1] else nn.Linear(*widths, bias=False)
        self.change = nn.Sequential(
            nn.Linear(widths[0], self.config.hidden),
            nn.GELU(),
            nn.Linear(self.config.hidden, widths[1]),
        )

    def fit(self, bank: Bank) -> None:
        """Minimise the mean squared error to the old embeddings."""
        minimise(
            self,
            lambda rows: functional.mse_loss(self._in_old_space(bank.new[rows]), bank.old[rows]),
            len(bank.new),
            torch.optim.AdamW(
                self.parameters(),
                lr=self.config.learning_rate,
                weight_decay=self.config.weight_decay,
            ),
            self.config.epochs,
            self.config.batch_size,
        )

    def query(self, view: View, state: State) -> Tensor:
        """Move the query to the old space where the item is old."""
        return self._in_old_space(view.new) if state == "old" else view.new

    def _in_old_space(self, new: Tensor) -> Tensor:
        moved: Tensor = self.residual(new) + self.change(new)
        return moved
