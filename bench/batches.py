"""Training batches: the same images, order and augmentation for every method of a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

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


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Crop, zoom and flip a whole uint8 batch [B, 3, H, W] at once, each image its own way.

    One affine resampling does what a random resized crop and a flip do; an area above 1 zooms
    out over the image's own border. Returns floats in [0, 1].
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area = uniform(*recipe.crop_area)
    stretch = recipe.crop_ratio ** uniform(-0.5, 0.5)
    width, height = area.sqrt() * stretch, area.sqrt() / stretch
    mirror = torch.where(torch.rand(count, generator=generator) < recipe.flip, -1.0, 1.0)
    transform = torch.zeros(count, 2, 3)
    transform[:, 0, 0] = width * mirror
    transform[:, 1, 1] = height
    transform[:, 0, 2] = uniform(-1, 1) * (1 - width).abs()
    transform[:, 1, 2] = uniform(-1, 1) * (1 - height).abs()
    grid = functional.affine_grid(
        transform.to(images.device), list(images.shape), align_corners=False
    )
    floats = images.float().div_(255)
    return functional.grid_sample(floats, grid, padding_mode="border", align_corners=False)


def batches(
    train: ImageSet, subset: Subset, recipe: Recipe, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (images, positions in the subset, labels) of one epoch, the last short batch left out.

    Depends on the subset, the recipe, the seed and the epoch, never on the method.
    """
    generator = torch.Generator().manual_seed(derive("batches", seed, epoch))
    order = torch.randperm(len(subset), generator=generator)
    size = min(recipe.batch_size, len(subset))
    labels = torch.from_numpy(subset.labels)
    for start in range(0, len(order) - size + 1, size):
        positions = order[start : start + size]
        images = train.images.read(subset.rows[positions.numpy()])
        yield augment(images, recipe, generator), positions, labels[positions]


def batches_per_epoch(subset: Subset, recipe: Recipe) -> int:
    """Number of batches that `batches` yields."""
    return len(subset) // min(recipe.batch_size, len(subset))
