"""One scale for the scores of old and new items, fitted on pairs of training images.

Where a query is compared with old items in one space and with new items in another, their scores
need not share a scale: what is a high score among one is a middling one among the other. The map
here is a regression of the new score of a pair of images on its old score, so that an item is
ranked by the new score to be expected of it. No label is read.

Where old and new items lie in one index and are asked by one query there is nothing to calibrate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import isotonic_regression
from torch import Tensor
from torch.nn import functional

from bench.protocol import Context, Method, PairedEmbeddings, StoredEmbeddings
from bench.settings import Settings

KNOTS = 64
CALIBRATION_IMAGES = 2000
NEAREST, RANDOM = 10, 10  # pairs of each image under either model, and at random

Space = tuple[Tensor, Tensor]  # what is asked [N, D] and what is stored [N, D] of the same images


class Calibrated(Method):
    """Base of methods that compare old and new items in spaces of different width.

    Where widths differ, the scores of old items are mapped to the scale of the new ones when the
    two searches are merged; where they are equal, nothing changes and nothing is fitted.
    """

    class Config(Settings):
        calibrated: bool = Field(
            True, description="map old scores to the scale of new ones where widths differ"
        )

    def prepare(self, context: Context) -> None:
        """Make room for the map, old scores and new ones at its knots [2, K]."""
        apart = self._calibrates(context.old_width, context.new_width)
        knots = torch.zeros(2, KNOTS, device=context.device) if apart else None
        self.register_buffer("knots", knots)

    def fits(self, old_width: int, new_width: int) -> bool:
        """There is a map to fit where widths differ, and what a method fits of its own."""
        own = type(self).fit is not Calibrated.fit
        return own or self._calibrates(old_width, new_width)

    def _calibrates(self, old_width: int, new_width: int) -> bool:
        return bool(self.config.calibrated) and old_width not in (0, new_width)

    @torch.no_grad()
    def fit(self, bank: PairedEmbeddings) -> None:
        """Compare what the method makes of training images in both states."""
        if self._knots is None:
            return
        view, before = StoredEmbeddings(bank.old, bank.new), StoredEmbeddings(old=bank.old)
        old = self.query(view, "old"), self.gallery(before, "old")
        new = self.query(view, "new"), self.gallery(StoredEmbeddings(new=bank.new), "new")
        self._knots.copy_(isotonic_knots(*training_scores(old, new, CALIBRATION_IMAGES)))

    @property
    def merge(self) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
        """The map of old scores [Q, No], new ones [Q, Nn] as they are; None without a map."""
        knots = self._knots
        if knots is None:
            return None
        return lambda old, new: (interpolated(old, knots.to(old)), new)

    @property
    def _knots(self) -> Tensor | None:
        return self._buffers.get("knots")


def training_scores(old: Space, new: Space, images: int) -> tuple[Tensor, Tensor]:
    """Old and new scores [P] of pairs of a sample of training images, never an image with itself.

    Each image of the sample is paired with those nearest under either model, among which a search
    decides, and with some at random.
    """
    count = min(images, len(old[0]))
    sample = torch.randperm(len(old[0]), device=old[0].device)[:count]
    scores = [_cosines(asked[sample], stored[sample]) for asked, stored in (old, new)]
    chosen = torch.zeros_like(scores[0], dtype=torch.bool)
    for score in (*scores, torch.rand_like(scores[0])):
        others = score.clone().fill_diagonal_(-torch.inf)
        chosen.scatter_(1, others.topk(min(NEAREST, count - 1)).indices, True)
    return scores[0][chosen], scores[1][chosen]


def isotonic_knots(old: Tensor, new: Tensor) -> Tensor:
    """Knots [2, K] of the increasing map that predicts new scores [P] from old ones [P].

    Isotonic regression is constant over blocks, which would make many scores equal: the map goes
    straight from the middle of one block to that of the next, and on with slope one at both ends.
    """
    order = old.argsort()
    x, y = (values[order].double().cpu().numpy() for values in (old, new))
    fitted = isotonic_regression(y)
    starts = np.asarray(fitted.blocks[:-1])
    middle = np.add.reduceat(x, starts) / np.diff(fitted.blocks)
    places = np.linspace(x[0], x[-1], KNOTS)
    beyond = places - places.clip(middle[0], middle[-1])
    knots = np.stack([places, np.interp(places, middle, fitted.x[starts]) + beyond])
    return torch.from_numpy(knots).to(old)


def interpolated(scores: Tensor, knots: Tensor) -> Tensor:
    """Map scores of any shape linearly between knots [2, K], with slope one beyond them."""
    x, y = knots
    inside = scores.clamp(x[0], x[-1])
    right = torch.searchsorted(x, inside).clamp(1, len(x) - 1)
    width = (x[right] - x[right - 1]).clamp(min=torch.finfo(x.dtype).tiny)
    share = (inside - x[right - 1]) / width
    return torch.lerp(y[right - 1], y[right], share) + (scores - inside)


def _cosines(left: Tensor, right: Tensor) -> Tensor:
    return functional.normalize(left, dim=1) @ functional.normalize(right, dim=1).T
