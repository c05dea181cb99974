"""A retrieval task carved from the training classes, so that settings never see the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.protocol import Images, ImageSet, RetrievalData
from bench.relevance import Relevance
from bench.seeds import derive


class SomeImages:
    """Some rows of other images."""

    def __init__(self, images: Images, rows: NDArray[np.int64]) -> None:
        self.images, self.rows = images, rows
        self.decodes = bool(getattr(images, "decodes", False))

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Return the images of `rows` as uint8 [B, 3, H, W]."""
        return self.images.read(self.rows[np.asarray(rows)])


def carve(data: RetrievalData) -> RetrievalData:
    """Train on half of the training classes; the other half are query and gallery.

    The split of classes is fixed. Queries and gallery of `data` are not used.
    """
    held = held_out(data.train.labels)
    kept, gallery = _part(data.train, ~held), _part(data.train, held)
    relevance = Relevance.among_themselves(gallery.labels)
    return replace(data, train=kept, query=gallery, gallery=gallery, relevance=relevance)


def held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the training images [N] of the classes that are searched for validation."""
    generator = np.random.default_rng(derive("validation"))
    classes = generator.permutation(np.unique(labels))
    return np.isin(labels, classes[: len(classes) // 2])


def _part(images: ImageSet, chosen: NDArray[np.bool_]) -> ImageSet:
    rows = np.flatnonzero(chosen)
    labels = np.unique(images.labels[rows], return_inverse=True)[1].astype(np.int64)
    return ImageSet(SomeImages(images.images, rows), labels, tuple(images.ids[row] for row in rows))
