"""Datasets whose images all lie in one array, split by class or by image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.images import ArrayImages
from bench.protocol import ImageSet, RetrievalData
from bench.relevance import Relevance
from bench.validation import SomeImages


def searched_among_themselves(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    ids: list[str],
    training: NDArray[np.bool_],
    counts: dict[str, int],
) -> RetrievalData:
    """Train on the images that `training` [N] marks; the others search each other.

    `pixels` are [N, H, W] or [N, 3, H, W], `labels` [N] the classes by which answers are right.
    """
    source = ArrayImages(pixels)

    def part(chosen: NDArray[np.bool_]) -> ImageSet:
        rows = np.flatnonzero(chosen)
        numbers = np.unique(labels[rows], return_inverse=True)[1].astype(np.int64)
        return ImageSet(SomeImages(source, rows), numbers, tuple(ids[row] for row in rows))

    train, gallery = part(training), part(~training)
    relevance = Relevance.among_themselves(gallery.labels)
    return RetrievalData(train, gallery, gallery, relevance, counts=counts)
