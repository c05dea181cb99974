"""Calibrated merge: rank merge after the old scores are mapped to the scale of the new ones.

Both models embed the query and search the part of the gallery that they embedded, as in
`rank_merge`. A new score is predicted from the old one by isotonic regression over pairs of
training images, which practitioners' tools do before they merge (from their documentation; ours
is the choice of pairs): each of a sample of images with its nearest ones under either model, and
with a few at random. No label is read. Between the knots the map is linear, beyond them it goes
on with slope one, so that no two scores fall together. The independent new model is deployed.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from bench.protocol import Context, Method, PairedEmbeddings, State, StoredEmbeddings
from bench.settings import Settings
from methods._calibration import KNOTS, interpolated, isotonic_knots, training_scores


class CalibratedMerge(Method):
    """Merge two searches by the new score, expected of old items and known of new ones."""

    trains: ClassVar[bool] = False

    class Config(Settings):
        images: int = Field(1000, ge=2, description="training images whose scores are compared")

    knots: Tensor

    def prepare(self, context: Context) -> None:
        """Make room for old scores and new ones at the knots [2, K]."""
        self.register_buffer("knots", context.old_embeddings.new_zeros(2, KNOTS))

    def fit(self, bank: PairedEmbeddings) -> None:
        """Regress the new score of a pair of training images on its old one."""
        old, new = training_scores((bank.old, bank.old), (bank.new, bank.new), self.config.images)
        self.knots.copy_(isotonic_knots(old, new))

    def query(self, view: StoredEmbeddings, state: State) -> Tensor:
        """Ask each part of the gallery with the model that embedded it."""
        return view.old if state == "old" else view.new

    def merge(self, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
        """Map the scores of the old search [Q, No] to the scale of the new one."""
        return interpolated(old, self.knots.to(old)), new
