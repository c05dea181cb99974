"""Real differences of five methods, recentred so that every null hypothesis is true.

`recorded.npz` holds what a default run of three seeds measured in `extended-data`: AP (in steps of
1/255), flips at 0 % and their area (in steps of 1/20) of 2,184 queries in 245 groups of 4 to 26.
"""

from functools import cache
from pathlib import Path

import numpy as np

STEPS = {"M_new_old": 255, "M_new_new": 255, "AUC_mAP": 255, "AUC_NFR_at_1": 20}


@cache
def recorded():
    """Values [M, S, Q] by quantity, and the sizes of the groups, whose queries stand together."""
    with np.load(Path(__file__).with_name("recorded.npz")) as file:
        sizes = file["sizes"].astype(np.int64)
        found = {name: file[name] / steps for name, steps in STEPS.items()}
        flips = np.unpackbits(file["NFR_at_1_0"], axis=-1, count=int(sizes.sum()))
    return {**found, "NFR_at_1@0%": flips.astype(np.float64)}, sizes


def starts(sizes):
    return np.cumsum(sizes) - sizes


class Population:
    """Groups to draw anew, with as many trained models of each method as are asked for.

    A model is an effect of its training plus what it does to each group beyond that, the latter
    taken from one of the three recorded models, group by group. `training` scales the former.
    `values` [..., M, 3, Q] of several quantities meet the same models and groups.
    """

    def __init__(self, values, seeds, random, training=1.0):
        self.seeds, self.random = seeds, random
        self.sizes = recorded()[1]
        self.total = self.sizes.sum()
        means = values.mean(-1)
        sums = np.add.reduceat(values, starts(self.sizes), axis=-1)  # [..., M, 3, G]
        sums -= self.sizes * means[..., None]
        self.common = sums.mean(-2)
        own = sums - self.common[..., None, :]
        noise = own.var(axis=-2, ddof=1).sum(-1) / self.total**2
        spread = np.maximum(means.var(axis=-1, ddof=1) - noise, 0)
        self.own, self.spread = own * np.sqrt(3 / 2), training * np.sqrt(spread)

    def models(self):
        """Sums [..., M, S, G] of new models, whose expectation over groups and trainings is 0."""
        *_, methods, _, groups = self.own.shape
        picked = self.random.integers(0, 3, (methods, self.seeds, groups))
        picked = np.broadcast_to(picked, (*self.own.shape[:-3], *picked.shape))
        own = np.take_along_axis(self.own, picked, axis=-2)
        own -= self.sizes * (own.sum(-1) / self.total)[..., None]
        effects = self.spread[..., None] * self.random.normal(size=(methods, self.seeds))
        return self.common[..., None, :] + own + effects[..., None] * self.sizes

    def draw(self, groups):
        """Sums [..., M, S, G] of groups drawn anew, and their sizes."""
        drawn = self.random.integers(0, len(self.sizes), groups)
        return self.models()[..., drawn], self.sizes[drawn].astype(np.float64)


def balanced_flips(one, other, random):
    """Differences of flips [S, G] whose sum over groups is 0 or as near as whole groups allow."""
    flips, sizes = recorded()[0]["NFR_at_1@0%"], recorded()[1]
    sums = np.add.reduceat(flips[one] - flips[other], starts(sizes), axis=-1)
    balance = 0.0
    signs = np.ones(len(sizes))
    for group in np.argsort(-np.abs(sums.sum(0)) + 1e-3 * random.random(len(sizes))):
        signs[group] = -1.0 if balance * sums[:, group].sum() > 0 else 1.0
        balance += signs[group] * sums[:, group].sum()
    return sums * signs
