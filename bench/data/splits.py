"""A retrieval task carved from the training classes, so that settings never see the test split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.data.decode import Window
from bench.data.images import Rows, crops
from bench.data.queries import THIRD, Queries, judge, split_queries
from bench.protocol import Images, ImageSet, RetrievalData
from bench.seeds import derive_seed
from bench.suites.schema import Rounding, Side


class SomeImages:
    """Some rows of other images."""

    def __init__(self, images: Images, rows: NDArray[np.int64]) -> None:
        self.images, self.rows = images, rows
        self.decodes = bool(getattr(images, "decodes", False))

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Rows) -> Tensor:
        """Return the images of `rows` as uint8 [B, 3, H, W]."""
        return self.images.read(self.rows[np.asarray(rows)])

    def crops(self, rows: Rows, windows: Sequence[Window], size: int) -> Tensor:
        """Return a window of each image as uint8 [B, 3, size, size]."""
        return crops(self.images, self.rows[np.asarray(rows)], windows, size)


def validation_split(data: RetrievalData) -> RetrievalData:
    """Train on half of the training classes; of the other half, a third of the images ask.

    The split is fixed. Queries and gallery of `data` are not used.
    """
    train = data.train
    groups = list(map(str, train.labels.tolist()))
    held = held_out(train.labels)
    carved = searched_split(train.images, train.labels, train.ids, ~held, THIRD, groups)
    return replace(carved, metric=data.metric, counts=data.counts)


def held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the training images [N] of the classes that are searched for validation."""
    generator = np.random.default_rng(derive_seed("validation"))
    classes = generator.permutation(np.unique(labels))
    return np.isin(labels, classes[: len(classes) // 2])


def searched_split(
    images: Images,
    labels: NDArray[np.int64],
    ids: Sequence[str],
    training: NDArray[np.bool_],
    queries: Queries,
    groups: Sequence[str],
    counts: dict[str, int] | None = None,
) -> RetrievalData:
    """Train on the images that `training` [N] marks; of the others, `queries` says which ask.

    `labels` [N] are the classes by which answers are right, `groups` [N] their names.
    """

    def part(rows: NDArray[np.int64]) -> ImageSet:
        kept = tuple(ids[row] for row in rows)
        return ImageSet(SomeImages(images, rows), numbered(labels[rows]), kept)

    train, others = np.flatnonzero(training), np.flatnonzero(~training)
    asking, found = split_queries(labels[others], [ids[row] for row in others.tolist()], queries)
    relevance = judge(labels[others], asking, found)
    gallery = part(others[found])
    query = gallery if np.array_equal(asking, found) else part(others[asking])
    named = tuple(groups[row] for row in others[asking])
    totals = {"train_images": len(train), "queries": len(query), "gallery": len(gallery)}
    told = {**(counts or {}), **totals, "groups": len(set(named))}
    return RetrievalData(part(train), query, gallery, relevance, counts=told, groups=named)


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
    labels: NDArray[np.int64],
    side: Side,
    seed: int,
    without: Subset | None = None,
    rounding: Rounding = "nearest",
) -> Subset:
    """Choose a side's classes and images from the training `labels` [N].

    `rounding` says how many a share is; every class keeps at least one image. A
    class's images and the order of classes depend on the seed alone, so that a smaller share is a
    subset of a larger one.
    """
    generator = np.random.default_rng(derive_seed("subset", seed))
    shuffled = generator.permutation(np.unique(labels))
    if side.disjoint and without is not None:
        shuffled = shuffled[~np.isin(shuffled, without.classes)]
    whole: Callable[[float], int] = int if rounding == "down" else round
    classes = np.sort(shuffled[: max(1, whole(side.classes * len(shuffled)))])
    every, starts = np.unique(np.sort(labels), return_index=True)
    kept = []
    for rows, wanted in zip(
        np.split(np.argsort(labels, kind="stable"), starts[1:]),
        np.isin(every, classes),
        strict=True,
    ):
        shuffled = generator.permutation(rows)
        if wanted:
            kept.append(shuffled[: max(1, whole(side.images * len(rows)))])
    rows = np.sort(np.concatenate(kept))
    return Subset(rows, classes, np.searchsorted(classes, labels[rows]))


Labels = NDArray[np.int64]


def numbered(classes: Sequence[str] | Labels) -> Labels:
    """Number classes from 0 in ascending order of their names or numbers."""
    return np.unique(np.asarray(classes), return_inverse=True)[1].astype(np.int64)


def training_classes(labels: Sequence[str] | Labels, seed: int) -> NDArray[np.bool_]:
    """Choose the rows [N] of a random half of the classes, the same for every training seed."""

    def place(name: str) -> str:
        return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()

    classes, row_class = np.unique(np.asarray(labels), return_inverse=True)
    shuffled = sorted(range(len(classes)), key=lambda index: place(str(classes[index])))
    return np.isin(row_class, shuffled[: len(shuffled) // 2])
