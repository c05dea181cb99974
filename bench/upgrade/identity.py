"""Which queries are gallery items: each would find itself, and tell nothing of a system."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from bench.data.embedding_files import EmbeddingTable
from bench.evaluation.scores import normalise, unit_rows
from bench.seeds import derive_seed

Rows = NDArray[np.int64]
_SAME = 1 - 1e-6  # cosine from which two embeddings are of one item
_DISTANCE = 1.5e-3  # of two unit vectors of that cosine, and what float32 adds
_DIMENSIONS, _NEAREST = 8, 8
_BLOCK = 1 << 14


def itself(queries: EmbeddingTable, gallery: EmbeddingTable) -> Rows:
    """Gallery row [Q] of each query that is a gallery item, −1 for others.

    Where both have ids, that is the item of the same id and embedding, whatever else may look the
    same. Else it is the item with the query's row number or, failing that, any other one that has
    its embedding.
    """
    found = np.full(len(queries), -1, dtype=np.int64)
    if queries.width != gallery.width:
        return found
    if queries.ids is not None and gallery.ids is not None:
        numbers = gallery.numbers()
        rows = np.array([numbers.get(name, -1) for name in queries.ids], dtype=np.int64)
        return np.where(_same(queries.rows, gallery.rows, rows), rows, -1)
    candidates = _alike(queries.rows, gallery.rows)
    own = np.arange(len(queries))
    for rows in (*candidates.T[::-1], np.where(own < len(gallery), own, -1)):
        found = np.where(_same(queries.rows, gallery.rows, rows), rows, found)
    return found


def _same(one: NDArray[Any], other: NDArray[Any], rows: Rows) -> NDArray[np.bool_]:
    """Whether `other` holds at rows [Q] the embeddings of `one` [Q, D]; false for row −1."""
    same = np.zeros(len(one), dtype=bool)
    known = np.flatnonzero(rows >= 0)
    if len(known):
        left = normalise(one[known], "queries", known).astype(np.float64)
        right = normalise(other[rows[known]], "gallery", rows[known])
        same[known] = (left * right).sum(1) > _SAME
    return same


def _alike(queries: NDArray[Any], gallery: NDArray[Any]) -> Rows:
    """A few gallery rows [Q, K] that may have the embedding of a query, −1 where there are fewer.

    Equal vectors stay equal in a few directions, in which a tree finds them.
    """
    width = queries.shape[1]
    generator = np.random.default_rng(derive_seed("identity"))
    directions = np.linalg.qr(generator.normal(size=(width, min(width, _DIMENSIONS))))[0]
    turned = torch.from_numpy(directions.astype(np.float32))
    placed = [
        np.concatenate(
            [
                (unit_rows(rows[start : start + _BLOCK], name, start) @ turned).numpy()
                for start in range(0, len(rows), _BLOCK)
            ]
        )
        for name, rows in (("gallery", gallery), ("queries", queries))
    ]
    near = min(_NEAREST, len(gallery))
    found = cKDTree(placed[0]).query(
        placed[1], k=[*range(1, near + 1)], distance_upper_bound=_DISTANCE
    )
    rows: Rows = np.where(np.isfinite(found[0]), found[1], -1).astype(np.int64)
    return rows
