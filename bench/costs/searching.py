"""What a search and a whole backfill curve take, measured on a part of a gallery as large."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.evaluation import backfill
from bench.evaluation.scores import normalise
from bench.relevance import Relevance

QUERIES, ITEMS = 512, 1 << 15  # at most, of what is measured


Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Searches:
    """Queries, items and answers of a query; the metric, width of embeddings, backfill shares."""

    queries: int
    items: int
    answers: int
    metric: str
    width: int
    shares: int


def search_seconds(of: Searches) -> float:
    """Seconds in which one system, such as the old one, answers all queries."""
    query, old, _, rows = _made(of)

    def work(count: int) -> None:
        backfill.search(query, old[:count], _relevance(rows, count), of.metric)

    return _of_all(work, of)


def curve_seconds(of: Searches) -> float:
    """Seconds of a whole backfill curve."""
    query, old, new, rows = _made(of)
    shares, generator = np.linspace(0, 1, of.shares), np.random.default_rng(0)

    def work(count: int) -> None:
        relevance, order = _relevance(rows, count), generator.permutation(count)
        galleries = new[:count], query, old[:count]
        backfill.hot_refresh(query, *galleries, relevance, order, shares, of.metric)

    return _of_all(work, of)


def _made(of: Searches) -> tuple[Vectors, Vectors, Vectors, list[NDArray[np.int64]]]:
    """Queries, galleries under two models, and rows of answers, few enough to be measured."""
    queries, items = min(of.queries, QUERIES), min(of.items, ITEMS)
    generator = np.random.default_rng(0)
    query, old, new = (
        normalise(generator.standard_normal((count, of.width), dtype=np.float32))
        for count in (queries, items, items)
    )
    rows = [generator.integers(0, items, max(1, min(of.answers, items))) for _ in range(queries)]
    for gallery in (old, new):
        for vector, found in zip(query, rows, strict=True):
            gallery[found] += 0.5 * vector  # most answers stand among the nearest items
    return query, old, new, rows


def _relevance(rows: list[NDArray[np.int64]], count: int) -> Relevance:
    return Relevance.from_lists([row % count for row in rows], [[]] * len(rows), count)


def _of_all(work: Callable[[int], None], of: Searches) -> float:
    """Seconds of `work` on all queries and items, from some of them.

    Of a gallery too large to be measured, the half that came last tells what every further item
    takes: where few places are read, later items are dismissed sooner than the first ones. Queries
    beyond those measured take as long as these do each.
    """
    items, queries = min(of.items, ITEMS), min(of.queries, QUERIES)
    return of.queries / queries * _extended(work, items, of.items)


def _extended(work: Callable[[int], None], measured: int, wanted: int) -> float:
    """Seconds of `work(wanted)`, from `work(measured)` and half of it."""
    work(min(measured, 64))  # warm-up
    whole = _timed(work, measured)
    if wanted == measured:
        return whole
    each = (whole - _timed(work, measured // 2)) / (measured - measured // 2)
    # Never less than nothing: a busy machine may take longer for the half.
    return whole + max(each, 0.25 * whole / measured) * (wanted - measured)


def _timed(work: Callable[[int], None], count: int) -> float:
    started = time.perf_counter()
    work(count)
    return time.perf_counter() - started
