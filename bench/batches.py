"""Training batches: the same images, order and augmentation for every method of a seed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.loading import read_ahead
from bench.protocol import ImageSet
from bench.seeds import derive
from bench.suite import Recipe, Side


@dataclass(frozen=True)
class Subset:
    """The part of the training images that one side of an upgrade learns from.

    `rows` [n] into the training set; `classes` [C] the sorted dataset labels, whose position is
    the label used in training; `labels` [n].
    """

    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


def choose(
    labels: NDArray[np.int64], side: Side, seed: int, without: Subset | None = None
) -> Subset:
    """Choose a side's classes and images from the training `labels` [N].

    Every class keeps at least one image. A class's images and the order of classes depend on the
    seed alone, so that a smaller share is a subset of a larger one.
    """
    generator = np.random.default_rng(derive("subset", seed))
    shuffled = generator.permutation(np.unique(labels))
    if side.disjoint and without is not None:
        shuffled = shuffled[~np.isin(shuffled, without.classes)]
    classes = np.sort(shuffled[: max(1, round(side.classes * len(shuffled)))])
    every, starts = np.unique(np.sort(labels), return_index=True)
    kept = []
    for rows, wanted in zip(
        np.split(np.argsort(labels, kind="stable"), starts[1:]),
        np.isin(every, classes),
        strict=True,
    ):
        shuffled = generator.permutation(rows)
        if wanted:
            kept.append(shuffled[: max(1, round(side.images * len(rows)))])
    rows = np.sort(np.concatenate(kept))
    return Subset(rows, classes, np.searchsorted(classes, labels[rows]))


CPU = torch.device("cpu")


@dataclass
class Feed:
    """How batches reach a model: its device, its part of each of them, and who reads ahead.

    A batch is divided into `parts` equal runs of which this model gets the run `part`. `seconds`
    adds up what reading (in all processes), waiting for it, and augmenting took.
    """

    device: torch.device = CPU
    part: int = 0
    parts: int = 1
    readers: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"reading": 0.0, "waiting": 0.0, "augmenting": 0.0}
    )

    def share(self, whole: Tensor) -> Tensor:
        """Return this model's run of a batch [B, …]."""
        size = len(whole) // self.parts
        return whole[self.part * size : (self.part + 1) * size]


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Crop, zoom and flip a whole uint8 batch [B, 3, H, W] at once, each image its own way.

    One affine resampling does what a random resized crop and a flip do; an area above 1 zooms
    out over the image's own border. Returns floats in [0, 1], of the recipe's image size.
    """
    views = draw_views(len(images), recipe, generator)
    return resample(images, views, recipe.image_size)


def draw_views(count: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Draw which part of each image is seen, and whether mirrored: affine maps [B, 2, 3]."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area = uniform(*recipe.crop_area)
    stretch = recipe.crop_ratio ** uniform(-0.5, 0.5)
    width, height = area.sqrt() * stretch, area.sqrt() / stretch
    mirror = torch.where(torch.rand(count, generator=generator) < recipe.flip, -1.0, 1.0)
    views = torch.zeros(count, 2, 3)
    views[:, 0, 0] = width * mirror
    views[:, 1, 1] = height
    views[:, 0, 2] = uniform(-1, 1) * (1 - width).abs()
    views[:, 1, 2] = uniform(-1, 1) * (1 - height).abs()
    return views


def resample(images: Tensor, views: Tensor, size: int) -> Tensor:
    """Look at uint8 images [B, 3, H, W] through affine maps [B, 2, 3].

    Returns floats [B, 3, size, size] in [0, 1], so that crops of larger images lose no detail.

    Fixed vectors [B, F] have no views and stay as they are.
    """
    if images.ndim == 2:
        return images
    shape = [*images.shape[:2], size, size]
    grid = functional.affine_grid(views.to(images.device), shape, align_corners=False)
    floats = images.float().div_(255)
    return functional.grid_sample(floats, grid, padding_mode="border", align_corners=False)


def batches(
    train: ImageSet, subset: Subset, recipe: Recipe, seed: int, epoch: int, feed: Feed | None = None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (images, positions in the subset, labels) of one epoch, the last short batch left out.

    Depends on the subset, the recipe, the seed and the epoch, never on the method. A feed gives
    the images of its part alone; positions and labels are those of the whole batch.
    """
    feed = feed or Feed()
    generator = torch.Generator().manual_seed(derive("batches", seed, epoch))
    order = torch.randperm(len(subset), generator=generator)
    size = min(recipe.batch_size, len(subset))
    parts = order[: len(order) // size * size].reshape(-1, size)
    labels = torch.from_numpy(subset.labels)
    pinned = feed.device.type == "cuda"
    rows = [subset.rows[feed.share(positions).numpy()] for positions in parts]
    reads, asked = read_ahead(train.images, rows, feed.readers, pinned), time.perf_counter()
    for positions, (images, seconds) in zip(parts, reads, strict=True):
        came = time.perf_counter()
        views = feed.share(draw_views(size, recipe, generator))
        seen = resample(images.to(feed.device, non_blocking=pinned), views, recipe.image_size)
        feed.seconds["reading"] += seconds
        feed.seconds["waiting"] += came - asked
        feed.seconds["augmenting"] += time.perf_counter() - came
        yield seen, positions.to(feed.device), labels[positions].to(feed.device)
        asked = time.perf_counter()


def batches_per_epoch(subset: Subset, recipe: Recipe) -> int:
    """Number of batches that `batches` yields."""
    return len(subset) // min(recipe.batch_size, len(subset))
