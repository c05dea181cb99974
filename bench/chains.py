"""Sequential upgrades v1 → v2 → v3 → … on one gallery, each hot-refreshing the one before.

An upgrade may start before the backfill of the last one is done: the gallery then holds several
generations of embeddings at once, all searched by the newest queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.backfill import SUCCESS_AT, Curve, backfill_steps, refresh_curve, search
from bench.errors import BenchError
from bench.relevance import Relevance
from bench.sweep import Generation

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Version:
    """Embeddings of the same queries [Q, D] and gallery [N, D] under one model of the chain."""

    query: NDArray[Any]
    gallery: NDArray[Any]


def compatibility_matrix(
    versions: Sequence[Version], relevance: Relevance, metric: str = "AP"
) -> Array:
    """M_ij [T, T]: mean AP of the queries of version i on the gallery of version j ≤ i.

    The upper triangle is NaN. Raises BenchError where the versions differ in width.
    """
    count = len(versions)
    matrix = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(i + 1):
            curve = search(versions[i].query, versions[j].gallery, relevance, metric)
            matrix[i, j] = np.nanmean(curve.ap)
    return matrix


def upgrade_curve(
    versions: Sequence[Version],
    reached: Rows,
    relevance: Relevance,
    order: Rows,
    shares: Array,
    metric: str = "AP",
    success_at: Sequence[int] = SUCCESS_AT,
) -> Curve:
    """Backfill to the last version a gallery that other upgrades have left unfinished.

    `reached` [N] is the number of the version whose embedding each item carries at first; with
    queries of the last version, items pass to it in `order`. Items that are there already stay.
    Raises BenchError for versions that do not exist and widths that differ.
    """
    last = len(versions) - 1
    if not len(reached) or reached.min() < 0 or reached.max() > last:
        raise BenchError(
            f"items carry versions {sorted(set(reached.tolist()))}, but the chain has versions "
            f"0..{last}"
        )
    steps = np.where(reached == last, 0, backfill_steps(order, shares))
    generations = []
    for number, version in enumerate(versions):
        carried = reached == number
        generations.append(
            Generation(
                query=versions[-1].query,
                gallery=version.gallery,
                since=steps if number == last else np.zeros_like(steps),
                until=np.full_like(steps, len(shares))
                if number == last
                else np.where(carried, steps, 0),
                name=f"gallery of version {number}",
            )
        )
    return refresh_curve(generations, relevance, shares, metric, success_at)


def interrupted(reached: Rows, version: int, order: Rows, share: float) -> Rows:
    """Versions [N] that items carry after an upgrade to `version` stopped at `share` of `order`."""
    moved = backfill_steps(order, [share]) == 0
    after: Rows = np.where(moved, version, reached)
    return after
