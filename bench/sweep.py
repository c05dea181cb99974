"""Ranks of relevant items at every backfill share, from one pass over each generation's gallery.

A rank needs no sorted gallery, only the number of items that beat a relevant one. The exact scores
of the relevant items come first; they are the thresholds. The gallery then streams by in blocks: a
float32 product tells within a proven error how many thresholds of its query each item beats, and
the few items too close to a threshold are scored again exactly. Each item is noted at the share
from which, and the share until which, it carries that score; running sums over shares and
thresholds turn the notes into ranks at all shares at once.

Where only the first `depth` places matter, a threshold that `depth` items beat at some share is
given up there, and items that beat no remaining threshold are dismissed by one comparison.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.relevance import Ragged, Relevance
from bench.retrieval import exact_scores, normalise

Rows = NDArray[np.int64]
PRODUCT_ENTRIES = 1 << 23
_TALLY_ENTRIES = 1 << 24
_FIRST_BLOCK = 512
# Scores lie in [−1, 1]: this distance between the keys of two queries keeps them apart.
_KEY_STRIDE = 4.0


@dataclass(frozen=True)
class Generation:
    """Embeddings of one model: `query` [Q, D] is compared with `gallery` [N, D].

    Gallery item i carries its embedding of this generation at the shares numbered
    `since[i]` ≤ s < `until[i]`.
    """

    query: NDArray[Any]
    gallery: NDArray[Any]
    since: Rows
    until: Rows
    name: str = "gallery"


def default_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def relevant_ranks(
    generations: Sequence[Generation],
    relevance: Relevance,
    share_count: int,
    depth: int | None = None,
    device: torch.device | None = None,
    block_entries: int = PRODUCT_ENTRIES,
) -> Rows:
    """Rank every relevant item among the items that are not junk, at every share.

    Returns ranks [P, S], counted from 1, for the P = Σ relevant pairs in the order of
    `relevance.relevant.rows`. With `depth`, a rank beyond it is only known to be beyond it.
    `block_entries` bounds the scores held at a time.
    """
    size, offsets = relevance.gallery_size, relevance.relevant.offsets
    ranks = np.full((len(relevance.relevant.rows), share_count), size + 1, dtype=np.int64)
    for queries in _query_chunks(relevance, len(generations) * share_count):
        sweep = _Sweep(generations, relevance, queries, share_count, device or default_device())
        block = max(1, block_entries // len(queries))
        reported = 0
        for start, stop in _blocks(size, block, grow=depth is not None):
            sweep.count(start, stop)
            if depth is not None and stop >= 2 * reported:
                sweep.give_up(depth)
                reported = stop
        sweep.write(ranks[offsets[queries[0]] : offsets[queries[-1] + 1]])
    return ranks


def _query_chunks(relevance: Relevance, entries_per_pair: int) -> Iterator[Rows]:
    """Cut the queries that have a relevant item into runs whose tallies fit in memory."""
    counts = relevance.relevant.counts()
    queries = np.flatnonzero(counts)
    cost = np.cumsum(counts[queries] * entries_per_pair)
    chunk = np.maximum(cost // _TALLY_ENTRIES, np.arange(len(queries)) // 4096)
    edges = np.flatnonzero(np.diff(chunk)) + 1
    yield from (part for part in np.split(queries, edges) if len(part))


def _blocks(size: int, block: int, grow: bool) -> Iterator[tuple[int, int]]:
    """Cut a gallery into blocks, at first small ones if thresholds are to be given up early."""
    start, length = 0, min(block, _FIRST_BLOCK) if grow else block
    while start < size:
        stop = min(start + length, size)
        yield start, stop
        start, length = stop, min(block, 2 * length)


@dataclass(frozen=True)
class _Thresholds:
    """Scores of relevant items, sorted by query, then score, then descending gallery row.

    An item beats the first few thresholds of its query and none of the others. `counts` [T, S]
    holds how many items are known to beat each at each share.
    """

    query: Tensor
    score: Tensor
    row: Tensor
    since: Tensor
    until: Tensor
    pair: Tensor
    counts: Tensor

    def keys(self) -> Tensor:
        """Query and score in one ascending number, off by 10⁻¹² at most: for a first search."""
        return self.query * _KEY_STRIDE + self.score

    def active(self) -> Tensor:
        """Shares at which the relevant item carries this score: bool [T, S]."""
        share = torch.arange(self.counts.shape[1], device=self.counts.device)
        return (self.since[:, None] <= share) & (share < self.until[:, None])

    def keep(self, chosen: Tensor) -> _Thresholds:
        return _Thresholds(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


class _Sweep:
    """Thresholds of some queries and what has been counted of the gallery so far."""

    def __init__(
        self,
        generations: Sequence[Generation],
        relevance: Relevance,
        queries: Rows,
        share_count: int,
        device: torch.device,
    ) -> None:
        self.device, self.queries = device, queries
        self.share_count = share_count
        self.streams = [_Stream(part, queries, device) for part in generations]
        self.thresholds = self._make_thresholds(relevance.relevant)
        self.tally = self._empty_tally()
        self.live = self.thresholds.active()
        self._set_floors()
        self._count_junk(relevance.junk)

    def _listed(self, lists: Ragged) -> tuple[Tensor, Tensor]:
        """Query (numbered within this run) and gallery row of every listed pair."""
        query = np.repeat(np.arange(len(self.queries)), lists.counts()[self.queries])
        rows = np.concatenate([lists[query] for query in self.queries])
        return self._tensor(query), self._tensor(rows)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _make_thresholds(self, relevant: Ragged) -> _Thresholds:
        query, row = self._listed(relevant)
        columns: list[tuple[Tensor, ...]] = []
        for stream in self.streams:
            since, until = stream.since[row], stream.until[row]
            pair = torch.nonzero(since < until).squeeze(1)
            score = stream.scores(query[pair], row[pair])
            columns.append((query[pair], score, row[pair], since[pair], until[pair], pair))
        of, score, item, since, until, pair = (
            torch.cat(part) for part in zip(*columns, strict=True)
        )
        order = np.lexsort((-item.cpu().numpy(), score.cpu().numpy(), of.cpu().numpy()))
        counts = torch.zeros(len(order), self.share_count, dtype=torch.int32, device=self.device)
        return _Thresholds(of, score, item, since, until, pair, counts).keep(self._tensor(order))

    def _empty_tally(self) -> Tensor:
        shape = len(self.thresholds.query), self.share_count + 1
        return torch.zeros(shape, dtype=torch.int32, device=self.device)

    def _count_junk(self, junk: Ragged) -> None:
        """Count junk items negatively at once: the sweep counts every item, junk included."""
        query, row = self._listed(junk)
        for stream in self.streams:
            carried = torch.nonzero(stream.since[row] < stream.until[row]).squeeze(1)
            of, item = query[carried], row[carried]
            key = of * _KEY_STRIDE
            low = torch.searchsorted(self.keys, key - 2)
            high = torch.searchsorted(self.keys, key + 2)
            beaten = self._beaten(low, high, stream.scores(of, item), item)
            self._note(of, beaten, stream.since[item], stream.until[item], -1)

    def count(self, start: int, stop: int) -> None:
        """Count which thresholds are beaten by gallery rows `start` … `stop` − 1."""
        for stream, floor in zip(self.streams, self.floors, strict=True):
            if not bool((floor < np.inf).any()):
                continue
            for query, item, low, high, exact in self._candidates(stream, floor, start, stop):
                beaten = low if exact is None else self._beaten(low, high, exact, item)
                self._note(query, beaten, stream.since[item], stream.until[item], 1)

    def _candidates(
        self, stream: _Stream, floor: Tensor, start: int, stop: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]]:
        """Find items that may beat a threshold: first the certain ones, then the close calls.

        Yields query, gallery row, the least and the most number of thresholds beaten (counted from
        the first of all queries) and, where those differ, exact scores.
        """
        products, rows, spans = stream.product(start, stop)
        if not len(rows):
            return
        margin = stream.margin
        query, column = torch.nonzero(products >= (floor - margin)[:, spans], as_tuple=True)
        item, key = rows[column], products[query, column].double() + query * _KEY_STRIDE
        low = torch.searchsorted(self.keys, key - margin)
        close = self.keys_and_end[low] <= key + margin
        certain = ~close
        yield query[certain], item[certain], low[certain], low[certain], None
        query, item, low, key = query[close], item[close], low[close], key[close]
        high = torch.searchsorted(self.keys, key + margin, right=True)
        yield query, item, low, high, stream.scores(query, item)

    def _beaten(self, low: Tensor, high: Tensor, score: Tensor, item: Tensor) -> Tensor:
        """Search exactly between `low` and `high` for the number of thresholds an item beats."""
        thresholds = self.thresholds
        while len(open_ := torch.nonzero(low < high).squeeze(1)):
            middle = (low[open_] + high[open_]) // 2
            difference = score[open_] - thresholds.score[middle]
            beats = (difference > 0) | ((difference == 0) & (item[open_] < thresholds.row[middle]))
            low[open_] = torch.where(beats, middle + 1, low[open_])
            high[open_] = torch.where(beats, high[open_], middle)
        return low

    def _note(self, query: Tensor, beaten: Tensor, since: Tensor, until: Tensor, by: int) -> None:
        """Note at the highest beaten threshold from which to which share an item stands there."""
        beats = beaten > self.first[query]
        slot = (beaten[beats] - 1) * (self.share_count + 1)
        flat = self.tally.view(-1)
        amount = torch.full((1,), by, dtype=flat.dtype, device=self.device).expand(len(slot))
        flat.scatter_add_(0, slot + since[beats], amount)
        flat.scatter_add_(0, slot + until[beats], -amount)

    def _settle(self) -> None:
        """Add the notes to the counts: over shares, and over all lower thresholds of the query."""
        if not len(self.tally):
            return
        standing = self.tally[:, :-1].cumsum(1)
        above = standing.flip(0).cumsum(0).flip(0)
        beyond = torch.cat([above, torch.zeros_like(above[:1])])[self.last[self.thresholds.query]]
        self.thresholds.counts.add_(above - beyond)
        self.tally.zero_()

    def give_up(self, depth: int) -> None:
        """Drop every threshold that `depth` items beat at all its shares; raise the floors."""
        self._settle()
        self.live = self.thresholds.active() & (self.thresholds.counts < depth)
        kept = self.live.any(1)
        self.thresholds, self.live = self.thresholds.keep(kept), self.live[kept]
        self.tally = self._empty_tally()
        self._set_floors()

    def _set_floors(self) -> None:
        """Find the least score that matters, per query and span of shares, and cache the keys."""
        query = self.thresholds.query
        self.keys = self.thresholds.keys()
        self.keys_and_end = torch.cat([self.keys, self.keys.new_tensor([np.inf])])
        numbers = torch.arange(len(self.queries), device=self.device)
        self.first = torch.searchsorted(query, numbers)
        self.last = torch.searchsorted(query, numbers, right=True)
        score = torch.where(self.live, self.thresholds.score[:, None], np.inf)
        shape = len(self.queries), self.share_count
        least = torch.full(shape, np.inf, dtype=torch.float64, device=self.device)
        least.scatter_reduce_(0, query[:, None].expand_as(score), score, "amin")
        self.floors = [stream.floor(least) for stream in self.streams]

    def write(self, ranks: Rows) -> None:
        """Write the ranks [P, S] of this run's pairs."""
        self._settle()
        threshold, share = np.nonzero(self.live.cpu().numpy())
        pair = self.thresholds.pair.cpu().numpy()[threshold]
        ranks[pair, share] = self.thresholds.counts.cpu().numpy()[threshold, share] + 1


class _Stream:
    """One generation's queries in memory, and its gallery read block by block."""

    def __init__(self, generation: Generation, queries: Rows, device: torch.device) -> None:
        self.gallery, self.name, self.device = generation.gallery, generation.name, device
        unit = normalise(generation.query[queries], "queries")
        self.query = torch.from_numpy(unit).to(device)
        self.since = torch.from_numpy(generation.since).to(device)
        self.until = torch.from_numpy(generation.until).to(device)
        self.margin = product_error(self.query.shape[1])
        spans = torch.stack([self.since, self.until], 1)
        self.spans, self.span_of = torch.unique(spans, dim=0, return_inverse=True)
        self.carried = self.since < self.until

    def scores(self, query: Tensor, row: Tensor) -> Tensor:
        """Exact scores of pairs."""
        return exact_scores(self.query, self.gallery, query, row, self.name)

    def floor(self, least: Tensor) -> Tensor:
        """Least score that matters [Q, U] in each span, from that at each share [Q, S]."""
        floors = torch.full((len(least), len(self.spans)), np.inf, device=self.device)
        for position, (since, until) in enumerate(self.spans.tolist()):
            if since < until:
                floors[:, position] = least[:, since:until].amin(1)
        return floors

    def product(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Score a block within `margin`: [Q, n], with the gallery row [n] and span [n] of each."""
        rows = torch.nonzero(self.carried[start:stop]).squeeze(1)
        block = torch.from_numpy(np.array(self.gallery[start:stop], dtype=np.float32))
        block = block.to(self.device)
        length = torch.linalg.vector_norm(block, dim=1, keepdim=True)
        if not bool(((length > 1e-15) & (length < 1e15)).all()):
            block = torch.from_numpy(normalise(self.gallery[start:stop], self.name, start))
            block = block.to(self.device)
        else:
            block /= length
        if len(rows) < len(block):
            block = block[rows]
        rows += start
        return self.query @ block.T, rows, self.span_of[rows]


def product_error(width: int) -> float:
    """Bound the error of a float32 product of unit rows of this width, in any summation order.

    With u = 2⁻²⁴: at most width·u from the sums and products of the dot product (Higham, Accuracy
    and Stability of Numerical Algorithms, §3.1), (width/2 + 4)·u from normalising in float32,
    √width·2⁻²⁷ because exact scores use rows rounded to 2⁻²⁶, and 8·u for comparing in float32.
    """
    unit = 2.0**-24
    return 1.01 * ((1.5 * width + 12) * unit + math.sqrt(width) * 2.0**-27)
