"""What a query costs while a gallery is backfilled: encoders, searches, milliseconds.

A method declares `query_encodings`, `searches` and `purchases`; here it is watched what a query
reads in each state, so that costs can be told share by share: until something is backfilled nobody
searches new items, and when all is, nobody searches old ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.evaluation import scores
from bench.evaluation.embedded import Embedded, deploy, device_of
from bench.protocol import Method, State, StoredEmbeddings

TIMED_ITEMS, TIMED_QUERIES, NEAREST = 20_000, 50, 100
STATES: tuple[State, State] = ("old", "new")


class Watched(StoredEmbeddings):
    """Embeddings that note which of the two models was asked for."""

    def __init__(self, old: Tensor | None = None, new: Tensor | None = None) -> None:
        super().__init__(old, new)
        self.read: set[State] = set()

    @property
    def old(self) -> Tensor:
        """Old embeddings [N, Do], unit vectors."""
        self.read.add("old")
        return super().old

    @property
    def new(self) -> Tensor:
        """New embeddings [N, Dn], unit vectors."""
        self.read.add("new")
        return super().new


@dataclass(frozen=True)
class Asked:
    """What a query reads in each state, and whether one vector serves both."""

    reads: dict[State, frozenset[State]]
    one_search: bool

    @property
    def encodings(self) -> int:
        """Models that embed a query while both kinds of items are there."""
        return len(self.reads["old"] | self.reads["new"])

    @property
    def searches(self) -> int:
        """Searches for a query while both kinds of items are there."""
        return 1 if self.one_search else 2


def watch(method: Method, query_old: Tensor | None, query_new: Tensor) -> Asked:
    """Watch what a method reads of queries [Q, Do] and [Q, Dn] in each state."""
    reads: dict[State, frozenset[State]] = {}
    vectors = []
    with torch.inference_mode():
        for state in STATES:
            view = Watched(query_old, query_new)
            vectors.append(method.query(view, state))
            reads[state] = frozenset(view.read)
    old, new = vectors
    same = method.merge is None and old.shape == new.shape and torch.allclose(old, new, atol=1e-6)
    return Asked(reads, same)


@dataclass(frozen=True)
class Serving:
    """Costs of a query at each share [S] of a backfill, and of storing an item meanwhile.

    `encoders` names the models that embed it, `searched` what each search goes over; `search_ms`
    is the median time of one query in flat FAISS indexes of `items` items; `bytes_per_item` the
    most that is stored for an item, at four bytes a number.
    """

    encoders: list[list[State]]
    searched: list[str]
    searches: list[int]
    search_ms: list[float]
    bytes_per_item: int
    items: int


def serving(method: Method, embedded: Embedded, shares: Sequence[float]) -> Serving:
    """Watch and time a method's queries at each backfilled share, on the first items."""
    few = Embedded(
        embedded.query_old[:TIMED_QUERIES],
        embedded.gallery_old[:TIMED_ITEMS],
        embedded.query_new[:TIMED_QUERIES],
        embedded.gallery_new[:TIMED_ITEMS],
    )
    device = device_of(method)
    asked = watch(
        method,
        *(torch.from_numpy(np.array(each)).to(device) for each in (few.query_old, few.query_new)),
    )
    made = deploy(method, few)
    count, width = len(few.gallery_old), max(made.gallery_old.shape[1], made.gallery_new.shape[1])
    unit = Embedded(
        *(
            scores.normalise(part)
            for part in (made.query_old, made.gallery_old, made.query_new, made.gallery_new)
        )
    )
    encoders, searched, searches, times = [], [], [], []
    for share in shares:
        moved = int(share * count + 0.5)
        # Who buys compares old items in the new space as well.
        there = {"old": moved < count, "new": moved > 0 or bool(method.purchases)}
        present = [state for state in STATES if there[state]]
        encoders.append(sorted(set[State]().union(*(asked.reads[state] for state in present))))
        parts = _parts(unit, moved, asked.one_search)
        searched.append("all items" if len(parts) == 1 else "old items, new items")
        searches.append(len(parts))
        times.append(_milliseconds(parts, method.merge if len(parts) > 1 else None))
    return Serving(encoders, searched, searches, times, 4 * width, count)


Part = tuple[NDArray[np.float32], NDArray[np.float32]]  # queries, items


def _parts(unit: Embedded, moved: int, one: bool) -> list[Part]:
    """Queries and items of each search when the first `moved` items are backfilled."""
    old, new = unit.gallery_old[moved:], unit.gallery_new[:moved]
    if one and old.shape[1] == new.shape[1]:
        return [(unit.query_new, np.concatenate([new, old]))]
    pairs = ((unit.query_old, old), (unit.query_new, new))
    return [(query, items) for query, items in pairs if len(items)]


def _milliseconds(parts: list[Part], merge: Callable[..., Any] | None) -> float:
    """Median milliseconds of one query: its searches, and joining what they found."""
    indexes = []
    for _, items in parts:
        index = faiss.IndexFlatIP(items.shape[1])
        index.add(items)
        indexes.append((index, min(NEAREST, len(items))))
    marks = []
    for row in range(len(parts[0][0])):
        started = time.perf_counter()
        found = [
            index.search(query[row : row + 1], nearest)[0]
            for (query, _), (index, nearest) in zip(parts, indexes, strict=True)
        ]
        if len(found) > 1:
            if merge is not None:
                found = [part.numpy() for part in merge(*map(torch.from_numpy, found))]
            np.argsort(-np.concatenate(found, axis=1), axis=1)[:, :NEAREST]
        marks.append(1e3 * (time.perf_counter() - started))
    return median(marks)
