"""The hot-refresh curve: retrieval accuracy of every query while a gallery is being backfilled.

Queries are embedded by the new model from the first moment. At backfilled share b, the first
b·N items (rounded half up) of the backfill order carry new embeddings, the others old ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import BenchError
from bench.evaluation import metrics
from bench.evaluation.metrics import SUCCESS_AT
from bench.evaluation.mixed import Merge, bought_at, mixed_ranks
from bench.evaluation.ranks import Generation, relevant_ranks
from bench.relevance import Relevance

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """Accuracy of every query at every backfilled share.

    `shares` [S]; `ap` [S, Q], average precision or whichever metric was asked for, NaN for queries
    without a relevant item; `success` [S, K, Q]: a relevant item stands among the first
    `success_at[k]`; `purchases` [S], items that each query has embedded anew, zero by default.
    """

    shares: NDArray[np.float64]
    ap: NDArray[np.float64]
    success: NDArray[np.bool_]
    success_at: tuple[int, ...]
    purchases: NDArray[np.int64] | None = None

    @property
    def evaluated(self) -> NDArray[np.bool_]:
        """Queries that have a relevant item [Q]."""
        evaluated: NDArray[np.bool_] = ~np.isnan(self.ap[0])
        return evaluated


def backfilled_counts(shares: ArrayLike, size: int) -> Rows:
    """Items backfilled at each share [S]: share × size, rounded half up.

    Raises BenchError unless the shares ascend within [0, 1].
    """
    array = np.asarray(shares, dtype=np.float64)
    in_range = array.ndim == 1 and len(array) > 0 and bool(((array >= 0) & (array <= 1)).all())
    if not in_range or bool((np.diff(array) < 0).any()):
        raise BenchError(f"shares are {array.tolist()}; expected ascending numbers in [0, 1]")
    return np.floor(array * size + 0.5).astype(np.int64)


def backfill_steps(order: ArrayLike, shares: ArrayLike) -> Rows:
    """Number of the first share at which each gallery item is backfilled [N]; S for never.

    Raises BenchError unless `order` is a permutation of the gallery rows.
    """
    rows = np.asarray(order)
    if not np.array_equal(np.sort(rows), np.arange(len(rows))):
        raise BenchError(
            f"the backfill order of {len(rows)} entries is no permutation of the gallery rows "
            f"0..{len(rows) - 1}; list every row once"
        )
    place = np.empty(len(rows), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    return np.searchsorted(backfilled_counts(shares, len(rows)), place, side="right")


def hot_refresh(
    query_new: NDArray[Any],
    gallery_new: NDArray[Any],
    query_old: NDArray[Any],
    gallery_old: NDArray[Any],
    relevance: Relevance,
    order: ArrayLike,
    shares: ArrayLike,
    metric: str = "AP",
    success_at: Sequence[int] = SUCCESS_AT,
    merge: Merge | None = None,
    block: int | None = None,
    purchases: int = 0,
) -> Curve:
    """Evaluate a gallery at every share of its backfill, exactly, in one pass.

    `query_new` [Q, Dn] is compared with backfilled items `gallery_new` [N, Dn], and `query_old`
    [Q, Do] with items not yet backfilled, `gallery_old` [N, Do]. `order` [N] lists gallery rows as
    they are backfilled. The result equals a search of the mixed gallery at each share, ranked by
    cosine and then by gallery row. With `merge`, it maps the scores of the two parts
    (old [Q, No], new [Q, Nn], rows in gallery order) to comparable ones at every share. With
    `purchases`, the new embeddings of so many items that are best in the old search are bought,
    see `bench.evaluation.mixed`. `block` bounds the scores that each core holds at a time.

    Raises BenchError for shapes that do not fit, rows that cannot be normalised, an order that is
    no permutation, and an unknown metric.
    """
    depth = depth_of([metric], success_at)
    steps, count = backfill_steps(order, shares), len(np.asarray(shares))
    ranks = refresh_ranks(
        query_new,
        gallery_new,
        query_old,
        gallery_old,
        relevance,
        steps,
        count,
        depth,
        merge,
        block,
        purchases,
    )
    curve = curve_of_ranks(ranks, relevance, shares, metric, success_at)
    return replace(curve, purchases=bought_at(steps, count, purchases))


def refresh_ranks(
    query_new: NDArray[Any],
    gallery_new: NDArray[Any],
    query_old: NDArray[Any],
    gallery_old: NDArray[Any],
    relevance: Relevance,
    steps: Rows,
    count: int,
    depth: int | None = None,
    merge: Merge | None = None,
    block: int | None = None,
    purchases: int = 0,
) -> Rows:
    """Rank every relevant item at each of `count` shares of a hot refresh: ranks [P, S].

    Any number of metrics can be made of them with `curve_of_ranks`. Arguments and errors are those
    of `hot_refresh`; `steps` [N] are those of `backfill_steps`, and with `depth` a rank beyond it
    is only known to be beyond it.
    """
    generations = (
        Generation(query_old, gallery_old, np.zeros_like(steps), steps, "old gallery"),
        Generation(query_new, gallery_new, steps, np.full_like(steps, count), "new gallery"),
    )
    check_shapes(generations, relevance)
    if merge is not None or purchases:
        old, new = ((part.query, part.gallery) for part in generations)
        return mixed_ranks(old, new, relevance, steps, count, merge, purchases)
    return relevant_ranks(generations, relevance, count, depth, tile_entries=block)


def depth_of(wanted: Sequence[str], success_at: Sequence[int]) -> int | None:
    """Places of a ranking that some metrics and successes read; None for all of them."""
    cuts = [metrics.cutoff(metric) for metric in wanted]
    known = [cut for cut in cuts if cut is not None]
    return None if len(known) < len(cuts) else max([*known, *success_at])


def search(
    query: NDArray[Any],
    gallery: NDArray[Any],
    relevance: Relevance,
    metric: str = "AP",
    success_at: Sequence[int] = SUCCESS_AT,
    block: int | None = None,
) -> Curve:
    """Evaluate one system, queries [Q, D] on a gallery [N, D]: a curve of the single share 1."""
    since = np.zeros(len(gallery), dtype=np.int64)
    generation = Generation(query, gallery, since, since + 1)
    return refresh_curve([generation], relevance, [1.0], metric, success_at, block)


def refresh_curve(
    generations: Sequence[Generation],
    relevance: Relevance,
    shares: ArrayLike,
    metric: str = "AP",
    success_at: Sequence[int] = SUCCESS_AT,
    block: int | None = None,
) -> Curve:
    """Evaluate a gallery whose items pass through any number of generations of embeddings."""
    check_shapes(generations, relevance)
    depth = depth_of([metric], success_at)
    count = len(np.asarray(shares))
    ranks = relevant_ranks(generations, relevance, count, depth, tile_entries=block)
    return curve_of_ranks(ranks, relevance, shares, metric, success_at)


def curve_of_ranks(
    ranks: Rows,
    relevance: Relevance,
    shares: ArrayLike,
    metric: str,
    success_at: Sequence[int],
) -> Curve:
    """Turn the ranks [P, S] of all relevant pairs into the metric and success of every query."""
    counts = relevance.relevant.counts()
    sorted_ranks = metrics.sort_within_queries(ranks, counts)
    return Curve(
        np.asarray(shares, dtype=np.float64),
        metrics.per_query(ranks, counts, metric, relevance.gains),
        np.stack([metrics.success(sorted_ranks, counts, k) for k in success_at], axis=1),
        tuple(success_at),
    )


def check_shapes(generations: Sequence[Generation], relevance: Relevance) -> None:
    """Raise BenchError, naming both, where queries, galleries and relevance do not fit."""
    for part in generations:
        if part.query.ndim != 2 or part.gallery.ndim != 2:
            raise BenchError(
                f"queries of shape {part.query.shape} and {part.name} of shape "
                f"{part.gallery.shape}: expected two tables of one vector per row"
            )
        if part.query.shape[1] != part.gallery.shape[1]:
            raise BenchError(
                f"queries have width {part.query.shape[1]} but {part.name} has width "
                f"{part.gallery.shape[1]}: a cosine needs equal widths; embed both with one model "
                "or project the queries to the gallery's width"
            )
        if len(part.query) != relevance.query_count:
            raise BenchError(
                f"{len(part.query)} query embeddings for {part.name}, but relevance lists "
                f"{relevance.query_count} queries; give one embedding per query"
            )
        if not len(part.gallery) == len(part.since) == relevance.gallery_size:
            raise BenchError(
                f"{part.name} has {len(part.gallery)} embeddings and the backfill order "
                f"{len(part.since)} entries, but relevance counts {relevance.gallery_size} gallery "
                "items; give one of each per item"
            )
