"""Training batches: the same images, order and augmentation for every method of a seed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.data.images import Rows, crops
from bench.data.splits import Subset
from bench.protocol import Images, ImageSet
from bench.seeds import derive_seed
from bench.suites.schema import Recipe
from bench.training.loading import read_ahead

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
    _marks: list[Any] = field(default_factory=list, repr=False)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add what the block takes to a stage: on a GPU, its own time and not that of launching."""
        if self.device.type != "cuda":
            started = time.perf_counter()
            yield
            self.seconds[stage] += time.perf_counter() - started
            return
        event: Any = torch.cuda.Event
        marks = [event(enable_timing=True) for _ in range(2)]
        marks[0].record()
        yield
        marks[1].record()
        self._marks.append((stage, *marks))

    def settle(self) -> None:
        """Add what GPUs have measured; whoever calls it has waited for them."""
        for stage, begin, end in self._marks:
            self.seconds[stage] += begin.elapsed_time(end) / 1000
        self._marks.clear()

    def share(self, whole: Tensor) -> Tensor:
        """Return this model's run of a batch [B, …]."""
        size = len(whole) // self.parts
        return whole[self.part * size : (self.part + 1) * size]


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Crop, zoom and flip a whole uint8 batch [B, 3, H, W] at once, each image its own way.

    One resampling does what a random resized crop and a flip do; an area above 1 zooms
    out over the image's own border. Returns floats in [0, 1], of the recipe's image size.
    """
    views = draw_views(len(images), recipe, generator)
    return resample(images, views, recipe.image_size)


def draw_views(count: int, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Draw which part of each image is seen, and whether mirrored.

    Returns scale and shift of both axes, across and down: [B, 2, 2].
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    area = uniform(*recipe.crop_area)
    stretch = recipe.crop_ratio ** uniform(-0.5, 0.5)
    width, height = area.sqrt() * stretch, area.sqrt() / stretch
    mirror = torch.where(torch.rand(count, generator=generator) < recipe.flip, -1.0, 1.0)
    views = torch.empty(count, 2, 2)
    views[:, 0, 0] = width * mirror
    views[:, 1, 0] = height
    views[:, 0, 1] = uniform(-1, 1) * (1 - width).abs()
    views[:, 1, 1] = uniform(-1, 1) * (1 - height).abs()
    return views


def resample(images: Tensor, views: Tensor, size: int) -> Tensor:
    """Resample uint8 images [B, 3, H, W] through scales and shifts of both axes [B, 2, 2].

    Returns floats [B, 3, size, size] in [0, 1], so that crops of larger images lose no detail.

    Fixed vectors [B, F] have no views and stay as they are.
    """
    if images.ndim == 2:
        return images
    floats = images.float().div_(255)
    grid = _places(views.to(images.device), size)
    return functional.grid_sample(floats, grid, padding_mode="border", align_corners=False)


def _places(views: Tensor, size: int) -> Tensor:
    """Where each pixel of a view is read, across and down: [B, size, size, 2] in [−1, 1].

    What `affine_grid` gives, bit by bit, which multiplies matrices for maps that turn nothing.
    """
    centres = torch.linspace(-1, 1, size, device=views.device) * (size - 1) / size
    across, down = (views[:, :, :1] * centres + views[:, :, 1:]).unbind(1)
    places = views.new_empty(len(views), size, size, 2)
    places[..., 0], places[..., 1] = across[:, None, :], down[:, :, None]
    return places


@dataclass(frozen=True)
class OriginalCrops:
    """Training images as windows of the original pictures, each drawn from a seed of its own.

    `rows` [n] into the images; `seeds` [n]. Read by position, so that the window of an image does
    not depend on who reads it, and when.
    """

    images: Images
    rows: NDArray[np.int64]
    seeds: NDArray[np.int64]
    recipe: Recipe
    decodes: ClassVar[bool] = True

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Rows) -> Tensor:
        """Return uint8 [B, 3, S, S] of the images at these positions."""
        positions = np.asarray(rows)
        windows = [
            partial(draw_window, self.recipe, np.random.default_rng(seed))
            for seed in self.seeds[positions]
        ]
        return crops(self.images, self.rows[positions], windows, self.recipe.image_size)


def draw_window(
    recipe: Recipe, generator: np.random.Generator, width: int, height: int
) -> tuple[int, int, int, int]:
    """Draw a window (left, top, right, bottom) inside a picture of `width` × `height` pixels.

    As torchvision's `RandomResizedCrop`: ten attempts at an area and an aspect ratio that fit, and
    then the largest centred window whose ratio is allowed.
    """
    ratios = np.log([1 / recipe.crop_ratio, recipe.crop_ratio])
    for _ in range(10):
        area = width * height * generator.uniform(*recipe.crop_area)
        ratio = np.exp(generator.uniform(*ratios))
        wide, high = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top = int(generator.integers(0, height - high + 1))
            left = int(generator.integers(0, width - wide + 1))
            return left, top, left + wide, top + high
    wide = min(width, round(height * recipe.crop_ratio))
    high = min(height, round(width * recipe.crop_ratio))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Mirror those of a uint8 batch [B, 3, S, S] that `which` [B] marks; floats in [0, 1]."""
    floats = images.float().div_(255)
    return torch.where(which.to(images.device).view(-1, 1, 1, 1), floats.flip(3), floats)


def batches(
    train: ImageSet,
    subset: Subset,
    recipe: Recipe,
    seed: int,
    epoch: int,
    feed: Feed | None = None,
    first: int = 0,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (images, positions in the subset, labels) of one epoch, the last short batch left out.

    Depends on the subset, the recipe, the seed and the epoch, never on the method. A feed gives
    the images of its part alone; positions and labels are those of the whole batch. Of an epoch
    that goes on, `first` batches are done.
    """
    feed = feed or Feed()
    generator = torch.Generator().manual_seed(derive_seed("batches", seed, epoch))
    order = torch.randperm(len(subset), generator=generator)
    size = min(recipe.batch_size, len(subset))
    parts = order[: len(order) // size * size].reshape(-1, size)
    # Sent once an epoch: a copy in every step would wait for the device each time.
    places = parts.to(feed.device)
    labels = torch.from_numpy(subset.labels).to(feed.device)[places]
    pinned = feed.device.type == "cuda"
    read = [feed.share(positions).numpy() for positions in parts[first:]]
    source: Images = train.images
    from_originals = recipe.crop_from == "original" and recipe.embeddings is None
    if from_originals:
        seeds = torch.randint(2**62, (len(subset),), generator=generator).numpy()
        source = OriginalCrops(source, subset.rows, seeds, recipe)
    else:
        read = [subset.rows[positions] for positions in read]

    def draw() -> Tensor:
        """Draw what is done to a whole batch: which images are mirrored, or all of a view."""
        if from_originals:
            return torch.rand(size, generator=generator) < recipe.flip
        return draw_views(size, recipe, generator)

    reads, asked = read_ahead(source, read, feed.readers, pinned), time.perf_counter()
    for _ in range(first):
        draw()
    for index, (images, seconds) in enumerate(reads, first):
        came = time.perf_counter()
        drawn = feed.share(draw())
        with feed.timed("augmenting"):
            images = images.to(feed.device, non_blocking=pinned)
            drawn = _sent(drawn, feed.device)
            seen = (
                mirror(images, drawn)
                if from_originals
                else resample(images, drawn, recipe.image_size)
            )
        feed.seconds["reading"] += seconds
        feed.seconds["waiting"] += came - asked
        yield seen, places[index], labels[index]
        asked = time.perf_counter()


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor to a device without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def batches_per_epoch(subset: Subset, recipe: Recipe) -> int:
    """Number of batches that `batches` yields."""
    return len(subset) // min(recipe.batch_size, len(subset))
